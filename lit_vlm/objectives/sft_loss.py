"""Supervised cross-entropy over completion tokens."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import StepTotals, TokenScores
from lit_vlm.interfaces.roles import SupervisedObjective


@dataclass(frozen=True)
class SFTLoss(SupervisedObjective):
    """Averages the negative log-probability of completion tokens.

    Where rows weigh (``TokenScores.weights``), each row's part of the sum is multiplied by its weight, while what the
    sum is divided by stays what it is without weights: ``seq_mean`` with ``exp(reward / temperature)`` is the loss of
    RISE. A row of weight 0 teaches nothing, and still counts.

    Source:
        TRL ``trl/trainer/sft_trainer.py`` (confirmed-in-code). We differ: vision tokens are never labels (see the
        encoder), and the denominator always counts the whole optimizer step. Weights: Qu et al., Recursive
        Introspection (2024), ``FastChat/fastchat/train/train.py`` (confirmed-in-code).
    """

    reduction: Literal["token_mean", "seq_mean", "sample_sum"] = "token_mean"
    """``token_mean``: every token weighs the same; ``seq_mean``: every sequence does; ``sample_sum``: mean over
    sequences of their summed loss."""

    def __call__(self, scores: TokenScores, totals: StepTotals) -> Tensor:
        """Computes this batch's share of the loss over ``totals``.

        Args:
            scores: Label tokens of the batch, ``N`` of them.
            totals: Labels and sequences of everything the loss is a mean of.

        Returns:
            A scalar in fp32, in nats; zero with a graph where the batch has no label.
        """
        losses = -scores.log_probs  # (N,)
        if not len(losses):
            return losses.sum()
        if scores.weights is not None:
            losses = losses * scores.weights[scores.rows]
        if self.reduction == "token_mean":
            return losses.sum() / totals.labels
        if self.reduction == "sample_sum":
            return losses.sum() / totals.sequences
        lengths = torch.bincount(scores.rows)
        return (losses / lengths[scores.rows]).sum() / totals.sequences
