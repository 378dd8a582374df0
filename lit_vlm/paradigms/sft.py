"""Supervised fine-tuning on completions."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Reward, SupervisedObjective
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.sft_loss import SFTLoss
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.halved_batches import HalvesBatches
from lit_vlm.paradigms.halved_passes import rows_of
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.step_figures import StepFigures


class SFTModule(HalvesBatches, VLMModule):
    """Raises the likelihood of the data's completions.

    The loss is a mean over the label tokens of the whole optimizer step, across accumulated micro-batches and ranks.

    Args:
        backbone: The model to train.
        objective: The loss over label tokens.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest training row, prompt included.
        chunk_tokens: Label tokens whose logits exist at one time.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        objective: SupervisedObjective = SFTLoss(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
        chunk_tokens: int = 1024,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, generation=generation, reward=reward, max_tokens=max_tokens)
        if chunk_tokens < 1:
            raise UserError(f"model.chunk_tokens is {chunk_tokens}; give at least 1")
        self.objective = objective
        self.chunk_tokens = chunk_tokens

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Computes this micro-batch's share of the step's loss.

        Returns:
            ``W K`` times the share: the strategy averages over ranks (``W``), Lightning over micro-batches (``K``).
        """
        totals, parts = self.step_totals(batch)

        def run(rows: PromptBatch) -> tuple[Tensor, StepFigures]:
            scores = self.policy.score(rows, self.chunk_tokens)
            share = self.objective(scores, totals) / parts
            figures, hits = StepFigures(), scores.is_top.sum()
            figures.add_shares({"loss": share})
            figures.add_means({"token_accuracy": hits}, hits.new_tensor(len(scores.rows)))
            return share, figures

        share = self.summed_passes(len(batch), partial(rows_of, self.policy, self.encoder, batch), run)
        return share * self.averaged_parts
