"""What every paradigm shares beside the policy: evaluation by generation, and what callbacks may ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from lit_vlm.evaluation.evaluation_metrics import EvaluationMetrics
from lit_vlm.evaluation.pair_metrics import PAIR_ACCURACY, PAIR_ACCURACY_PER_TOKEN, PairMetrics, pair_accuracies
from lit_vlm.interfaces.batches import CompletionSet, EvaluationBatch, PreferenceBatch, PromptBatch
from lit_vlm.interfaces.capabilities import COMPLETIONS
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.records import Completion, RewardOutput, Sample, Verdict
from lit_vlm.interfaces.roles import Reward
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.completion_rows import completion_rows
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.halved_passes import Answer, moves_together, rows_of
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.pair_passes import completion_sums, pair_scores
from lit_vlm.paradigms.policy_module import PolicyModule, run_seed
from lit_vlm.paradigms.predicting import ledger_header, predict_completions, prediction_engine
from lit_vlm.parsing.answers import check_answer


class VLMModule(PolicyModule):
    """Trains a policy in ``training_step`` (a paradigm's own), and evaluates it by generating.

    Args:
        backbone: The model to train.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest training row, prompt included.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, max_tokens=max_tokens)
        self.generation = generation
        self.reward = reward
        self.evaluation_metrics = nn.ModuleDict()
        self.pair_metrics = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        """Prepares the metrics for the tasks that the data serve.

        Raises:
            UserError: The Trainer's strategy or precision does not stand how the model is to be loaded.
        """
        super().setup(stage)
        tasks = self._data().tasks
        for name in ("validation", "test", "predict"):
            self.evaluation_metrics[name] = EvaluationMetrics(tasks)
            self.pair_metrics[name] = self.new_pair_metrics()

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> dict[str, Any]:
        """Scores and continues held-out samples; callbacks find the completions under ``completions``."""
        return {COMPLETIONS: self._evaluate(batch, "validation")}

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> dict[str, Any]:
        """Scores and continues held-out samples; callbacks find the completions under ``completions``."""
        return {COMPLETIONS: self._evaluate(batch, "test")}

    def predict_step(self, batch: EvaluationBatch, batch_idx: int) -> list[Completion]:
        """Writes completions of samples, with all that is known of them; see ``predicting.predict_completions``."""
        return self._in_pieces(
            batch.prompts,
            lambda prompts: predict_completions(
                self.policy,
                self.encoder,
                prompts,
                self.generation,
                run_seed=run_seed(),
                verdict_of=self.verdict_of,
                reward=self.reward,
            ),
        )

    def on_predict_start(self) -> None:
        """Lets prompts be as long as completions leave the model's context.

        Raises:
            UserError: Completions may be as long as the context.
        """
        prediction_engine(self.generation).check(self.policy, self.encoder)
        most = self.policy.context_tokens
        if most is not None:
            # Longer prompts are the data's fault then, each named by its sample.
            self.encoder.leave_room(most, self.generation.max_new_tokens)

    def ledger_header(self) -> LedgerHeader:
        """Tells what holds for all completions of ``predict``, once its weights are set; on all ranks together."""
        return ledger_header(self.policy, self.encoder, self.backbone, self.generation, run_seed())

    def on_validation_epoch_end(self) -> None:
        """Logs the figures of the whole validation set."""
        self._log_evaluation("validation")
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        """Logs the figures of the whole test set."""
        self._log_evaluation("test")
        super().on_test_epoch_end()

    def completion_log_probs(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Scores each sample's trained turns under the policy as it is, given what stands before them.

        Returns:
            Sums over their tokens, in nats, fp32, on the CPU, shape ``(N,)``.
        """
        batch = self.encoder.encode(samples).to(self.device)
        with self.policy.decoding():
            scores = self.policy.score(batch)
        sums = torch.zeros(len(samples), device=scores.log_probs.device)
        return sums.index_add(0, scores.rows, scores.log_probs).cpu()

    def complete(self, samples: Sequence[Sample]) -> list[Completion]:
        """Continues each sample's prompt, as validation does."""
        return self._complete(self.encoder.encode_prompts(samples).to(self.device))

    def rewards_of(self, completions: Sequence[Completion]) -> RewardOutput:
        """Scores completions by the module's reward.

        Raises:
            UserError: It has none.
        """
        if self.reward is None:
            raise UserError("completions are to be rewarded, but there is no model.reward; name one")
        return self.reward(completions)

    def new_pair_metrics(self) -> PairMetrics:
        """Makes the counters of figures of pairs, which ``evaluate_pairs`` adds to."""
        return PairMetrics([PAIR_ACCURACY, PAIR_ACCURACY_PER_TOKEN])

    def evaluate_pairs(self, batch: PreferenceBatch, metrics: PairMetrics) -> None:
        """Measures whether the policy finds preferred completions likelier.

        Args:
            batch: One pair or more.
            metrics: What to add to.
        """
        scores = pair_scores(batch, self.scored(batch, partial(completion_sums, self.policy)), None)
        metrics.update(pair_accuracies(scores), scores.has_rejected.sum())

    def scored(self, batch: CompletionSet, score: Callable[[CompletionSet], torch.Tensor]) -> torch.Tensor:
        """Scores completions without a graph, fewer at a time where all do not fit.

        Args:
            batch: ``C`` completions.
            score: Returns a row for each completion that it is given.

        Returns:
            The rows, shape ``(C, ...)``.
        """
        parts = self.pass_sizes.in_pieces(
            "scoring",
            len(batch.token_ids),
            lambda rows: score(completion_rows(self.policy.model, batch, rows)),
            together=moves_together(self.policy),
        )
        return torch.cat(parts)

    def verdict_of(self, sample: Sample, text: str) -> Verdict | None:
        """Says whether a completion is right; None where there is nothing to compare it with."""
        return None if sample.answer is None else check_answer(text, sample.answer)

    def count_completions(self, completions: Sequence[Completion], stage: str) -> None:
        """Adds generated completions of a batch to the figures of a stage."""
        metrics = self._metrics(stage)
        metrics.update_completions(completions)
        if self.reward is not None:
            metrics.update_rewards(self.reward(completions))

    def _evaluate(self, batch: EvaluationBatch, stage: str) -> list[Completion]:
        metrics = self._metrics(stage)
        if batch.complete.count().labels:
            for scores in self._in_pieces(batch.complete, lambda piece: [self.policy.score(piece)]):
                metrics.update_scores(scores)
        if batch.pairs is not None and len(batch.pairs):
            self.evaluate_pairs(batch.pairs, cast(PairMetrics, self.pair_metrics[stage]))
        completions = self._complete(batch.prompts)
        self.count_completions(completions, stage)
        return completions

    def _complete(self, prompts: PromptBatch) -> list[Completion]:
        start = time.perf_counter()
        generated = self._in_pieces(prompts, lambda piece: self.policy.generate(piece, self.generation))
        seconds = (time.perf_counter() - start) / len(generated)
        completions = []
        for sample, ids in zip(prompts.samples, generated, strict=True):
            text = self.encoder.decode(ids)
            completions.append(
                Completion(
                    sample=sample,
                    prompt=self.encoder.describe_prompt(sample),
                    text=text,
                    verdict=self.verdict_of(sample, text),
                    token_count=len(ids),
                    seconds=seconds,
                )
            )
        return completions

    def _in_pieces(self, batch: PromptBatch, run: Callable[[PromptBatch], list[Answer]]) -> list[Answer]:
        """Runs a pass without a graph over a batch, or over a few rows at a time where the whole does not fit."""
        found = self.pass_sizes.in_pieces(
            "evaluation",
            len(batch),
            lambda rows: run(rows_of(self.policy, self.encoder, batch, rows)),
            together=moves_together(self.policy),
        )
        return [answer for piece in found for answer in piece]

    def _log_evaluation(self, stage: str) -> None:
        for metrics in (self._metrics(stage), cast(PairMetrics, self.pair_metrics[stage])):
            for name, value in metrics.compute().items():
                self.log(f"{stage}/{name}", value, prog_bar=name == "exact_match", batch_size=1)
            metrics.reset()

    def _metrics(self, stage: str) -> EvaluationMetrics:
        return cast(EvaluationMetrics, self.evaluation_metrics[stage])
