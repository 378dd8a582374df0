"""What paradigms share that learn from completions which are given and compared: pairs, and groups with grades."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor
from torch.optim import Optimizer

from lit_vlm.interfaces.batches import GroupBatch, PreferenceBatch, StepTotals
from lit_vlm.interfaces.coefficients import Coefficients, Declares
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Reward
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.completion_scoring import PrefixPass
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.saved_coefficients import SavesCoefficients
from lit_vlm.paradigms.step_figures import StepFigures


class ComparisonModule(SavesCoefficients, VLMModule):
    """Learns from completions that are compared, by a loss over samples of the whole optimizer step.

    A paradigm says what its batches hold (``batch_form``) and computes a micro-batch's share of the loss
    (``share_of``).

    Args:
        backbone: The model to train.
        objective: Declares the coefficients that callbacks may turn.
        prefix: ``shared`` computes each prompt once for all its completions, where the model can; ``naive`` once for
            each.
        chunk_tokens: Completion tokens whose logits exist at one time.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores generated completions in validation and test; None scores nothing.
        max_tokens: Longest prompt with a completion, in tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        objective: Declares,
        prefix: PrefixPass,
        chunk_tokens: int,
        optimizer: OptimizerSettings,
        generation: GenerationSettings,
        reward: Reward | None,
        max_tokens: int,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, generation=generation, reward=reward, max_tokens=max_tokens)
        if chunk_tokens < 1:
            raise UserError(f"model.chunk_tokens is {chunk_tokens}; give at least 1")
        if prefix not in get_args(PrefixPass):
            raise UserError(f"model.prefix is {prefix!r}; give one of {', '.join(get_args(PrefixPass))}")
        self.prefix: PrefixPass = prefix
        self.chunk_tokens = chunk_tokens
        self.coefficients = Coefficients.of(objective)
        self._figures = StepFigures()

    @abstractmethod
    def share_of(self, batch: Any, totals: StepTotals, parts: int) -> Tensor:
        """Computes a micro-batch's share of the step's loss, with a graph, and keeps its figures for the log.

        Args:
            batch: The micro-batch.
            totals: Counts over the whole optimizer step; of this micro-batch alone where nobody knows them.
            parts: Micro-batches, over all ranks, that the loss is a mean over: 1 where ``totals`` are of the step.
        """

    def training_step(self, batch: PreferenceBatch | GroupBatch, batch_idx: int) -> dict[str, Any]:
        """Computes this micro-batch's share of the step's loss.

        Returns:
            ``loss``: ``W K`` times the share, as the strategy averages over ranks (``W``) and Lightning over
            micro-batches (``K``); ``tokens`` that were trained on, prompts included.
        """
        share = self.share_of(batch, *self.step_totals(batch))
        return {"loss": share * self.averaged_parts, "tokens": batch.mask.sum() + batch.prompts.attention_mask.sum()}

    def step_figures(self, figures: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns what is logged of a step under ``train/``: all its figures, where nothing else is said."""
        return figures

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the figures of the whole step, over its micro-batches and ranks."""
        for name, value in self.step_figures(self._figures.take(self.sum_over_ranks)).items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=1)
        for name, coefficient in self.coefficients.items():
            self.log(f"train/coefficient/{name}", coefficient, batch_size=1)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"], batch_size=1)
