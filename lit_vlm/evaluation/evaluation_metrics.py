"""The figures of a validation or test set: likelihood of its completions, and correctness of generated ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import nn
from torchmetrics import MeanMetric

from lit_vlm.evaluation.exact_match import ExactMatch
from lit_vlm.interfaces.batches import TokenScores
from lit_vlm.interfaces.records import AnswerType, Completion, RewardOutput

ALL = "all"
STRICT = "strict_match"


class EvaluationMetrics(nn.Module):
    """Collects over batches and ranks.

    Args:
        tasks: Names of the tasks that completions may belong to.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self._tasks = tuple(tasks)
        self.loss = MeanMetric()
        self.token_accuracy = MeanMetric()
        self.exact_match = ExactMatch([ALL, *map(_task_group, self._tasks), *map(_type_group, get_args(AnswerType))])
        self.strict_match = ExactMatch([STRICT, *(f"{STRICT}/{task}" for task in self._tasks)])
        self.well_formed = MeanMetric()
        self.reward = MeanMetric()
        self.reward_scored = MeanMetric()
        self.reset()

    def update_scores(self, scores: TokenScores) -> None:
        """Counts the label tokens of a batch, each with the same weight."""
        count = len(scores.rows)
        if count:
            self.loss.update(-scores.log_probs.detach().mean(), count)
            self.token_accuracy.update(scores.is_top.float().mean(), count)

    def update_completions(self, completions: Sequence[Completion]) -> None:
        """Counts the generated completions that have a verdict."""
        judged = [(_groups(completion), completion.verdict) for completion in completions if completion.verdict]
        self.exact_match.update([groups for groups, _ in judged], [verdict.correct for _, verdict in judged])
        self.strict_match.update(
            [_strict_groups(completion) for completion in completions if completion.verdict],
            [verdict.correct and verdict.formatted for _, verdict in judged],
        )
        for _, verdict in judged:
            self.well_formed.update(float(verdict.formatted))

    def update_rewards(self, output: RewardOutput) -> None:
        """Counts the rewards of a batch, and how many completions the reward applied to."""
        scored = ~output.total.isnan()
        if len(scored):
            self.reward_scored.update(scored.float())
        if scored.any():
            self.reward.update(output.total[scored])

    def compute(self) -> dict[str, float]:
        """Returns the figures seen so far, by name; proportions come with 95 % Wilson intervals.

        ``exact_match`` has ``_low``, ``_high`` and ``_total`` beside it, and one entry a task (``exact_match/<task>``,
        likewise) and an answer type (``exact_match_by_type/<type>``). ``strict_match`` counts a right answer only where
        the completion is well formed as a whole, overall and by task. ``reward`` is the mean over completions that the
        reward applies to, ``reward_scored`` their share. Figures without any observation are left out.
        """
        # Every rank computes every figure: one without observations would else leave the others waiting.
        loss = self.loss.compute()
        figures = {
            "loss": float(loss),
            "perplexity": float(torch.exp(loss)),
            "token_accuracy": float(self.token_accuracy.compute()),
            "well_formed": float(self.well_formed.compute()),
            "reward": float(self.reward.compute()),
            "reward_scored": float(self.reward_scored.compute()),
        }
        for group, proportion in {**self.exact_match.compute(), **self.strict_match.compute()}.items():
            name = "exact_match" if group == ALL else group
            figures[name] = proportion.mean
            figures[f"{name}_low"] = proportion.low
            figures[f"{name}_high"] = proportion.high
            figures[f"{name}_total"] = float(proportion.total)
        return {name: value for name, value in figures.items() if not math.isnan(value)}

    def reset(self) -> None:
        """Forgets everything seen."""
        means = (self.loss, self.token_accuracy, self.well_formed, self.reward, self.reward_scored)
        for metric in (*means, self.exact_match, self.strict_match):
            metric.reset()
        # An observation of no weight: a rank that never sees a batch still takes part in the sums.
        for mean in means:
            mean.update(0.0, 0.0)
        self.exact_match.update([], [])
        self.strict_match.update([], [])


def _task_group(task: str) -> str:
    return f"exact_match/{task}"


def _type_group(answer_type: str) -> str:
    return f"exact_match_by_type/{answer_type}"


def _groups(completion: Completion) -> list[str]:
    answer = completion.sample.answer
    task = completion.sample.meta.category
    return [ALL, *([_task_group(task)] if task else []), *([_type_group(answer.type)] if answer else [])]


def _strict_groups(completion: Completion) -> list[str]:
    task = completion.sample.meta.category
    return [STRICT, *([f"{STRICT}/{task}"] if task else [])]
