"""Rewards a right answer, and a little the right form."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.parsing.final_answers import lists_answers


@dataclass(frozen=True)
class AnswerCorrectness(Reward):
    """Adds 1 for a right answer and ``format_weight`` for exactly ``<think>…</think><answer>…</answer>``.

    Several different answer blocks are no right answer, whatever the last one says: listing answers must not pay.

    Source:
        The rule-based accuracy and format rewards of DeepSeek-R1 (2025), section 2.2.2 (from-paper-text). The paper
        gives no weights; 1 and ``format_weight`` are ours.
    """

    format_weight: float = 0.1
    """Reward of the form alone."""

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Scores each completion by its verdict.

        Raises:
            UserError: A sample has no answer to compare with.
        """
        verdicts = []
        for completion in completions:
            if completion.verdict is None:
                raise UserError(f"sample {completion.sample.id!r} has no answer, so correctness cannot be rewarded")
            verdicts.append(completion.verdict)
        listed = [lists_answers(completion.text) for completion in completions]
        correct = torch.tensor(
            [float(verdict.correct and not several) for verdict, several in zip(verdicts, listed, strict=True)]
        )
        formatted = torch.tensor([float(verdict.formatted) for verdict in verdicts])
        return RewardOutput(correct + self.format_weight * formatted, {"correct": correct, "format": formatted})
