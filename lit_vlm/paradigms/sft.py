"""Supervised fine-tuning on completions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Reward, SupervisedObjective
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.sft_loss import SFTLoss
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.halved_passes import HalvesBatches, summed_passes
from lit_vlm.paradigms.optimization import OptimizerSettings


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
        self._step_sums = torch.zeros(3)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Computes this micro-batch's share of the step's loss.

        Returns:
            ``W K`` times the share: the strategy averages over ranks (``W``), Lightning over micro-batches (``K``).
        """
        totals, parts = self.step_totals(batch)
        self._rows_of_batch = len(batch)

        def run(rows: PromptBatch) -> tuple[Tensor, Tensor]:
            scores = self.policy.score(rows, self.chunk_tokens)
            share = self.objective(scores, totals) / parts
            hits = scores.is_top.sum()
            return share, torch.stack([share.detach(), hits.float(), hits.new_tensor(len(scores.rows)).float()])

        share, figures = summed_passes(self.pass_sizes, self.policy, self.encoder, batch, run)
        self._step_sums = self._step_sums.to(share.device) + figures
        return share * self.averaged_parts

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the figures of the whole step, over its micro-batches and ranks."""
        loss, hits, labels = self.sum_over_ranks(self._step_sums).unbind()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/token_accuracy", hits / labels.clamp(min=1))
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        self._step_sums = torch.zeros_like(self._step_sums)
