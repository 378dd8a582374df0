"""What paradigms share that learn from completions which are given and compared: pairs, and groups with grades."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, get_args

from torch import Tensor
from torch.optim import Optimizer

from lit_vlm.interfaces.batches import GroupBatch, PreferenceBatch, StepTotals
from lit_vlm.interfaces.coefficients import Coefficients, Declares
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Reward
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.completion_rows import compared_rows
from lit_vlm.models.completion_scoring import PrefixPass
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.halved_batches import HalvesBatches
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.saved_coefficients import SavesCoefficients
from lit_vlm.paradigms.step_figures import StepFigures


class ComparisonModule(SavesCoefficients, HalvesBatches, VLMModule):
    """Learns from completions that are compared, by a loss over samples of the whole optimizer step.

    A paradigm says what its batches hold (``batch_form``), computes what takes no gradient of them (``prepared``), and
    then their share of the loss (``share_of``). Where memory runs out it does so with fewer pairs or groups at a time.

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

    def prepared(self, batch: Any) -> Any:
        """Computes what takes no gradient of pairs or groups; by itself nothing.

        Args:
            batch: Pairs or groups of a micro-batch, all or some.

        Returns:
            What ``share_of`` is given: the batch, with whatever it wants to know beside.
        """
        return batch

    @abstractmethod
    def share_of(self, prepared: Any, totals: StepTotals, parts: int) -> tuple[Tensor, StepFigures]:
        """Computes the share that pairs or groups of a micro-batch have in the step's loss.

        Args:
            prepared: What ``prepared`` made of them.
            totals: Counts over the whole optimizer step; of this micro-batch alone where nobody knows them.
            parts: Micro-batches, over all ranks, that the loss is a mean over: 1 where ``totals`` are of the step.

        Returns:
            The share, with a graph, and figures for the log; both of some pairs or groups and of the others add up.
        """

    def training_step(self, batch: PreferenceBatch | GroupBatch, batch_idx: int) -> dict[str, Any]:
        """Computes this micro-batch's share of the step's loss.

        Returns:
            ``loss``: ``W K`` times the share, as the strategy averages over ranks (``W``) and Lightning over
            micro-batches (``K``); ``tokens`` that were trained on, prompts included.
        """
        totals, parts = self.step_totals(batch)
        share = self.summed_passes(
            len(batch),
            lambda rows: self.prepared(compared_rows(self.policy.model, batch, rows)),
            lambda prepared: self.share_of(prepared, totals, parts),
        )
        return {"loss": share * self.averaged_parts, "tokens": batch.mask.sum() + batch.prompts.attention_mask.sum()}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the figures of the whole step, over its micro-batches and ranks, and the coefficients."""
        super().on_before_optimizer_step(optimizer)
        for name, coefficient in self.coefficients.items():
            self.log(f"train/coefficient/{name}", coefficient, batch_size=1)
