"""What is logged of pairs, in training and in validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.evaluation.pair_metrics import pair_accuracies
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores
from lit_vlm.interfaces.rollouts import Loss

OF_PAIRS = {
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "reward_margin": "reward_margin",
    "reward_accuracy": "reward_accuracy",
    "chosen_log_prob": "log_probs/chosen",
    "rejected_log_prob": "log_probs/rejected",
    "corrupted_pairs": "corrupted_share",
}
"""Sums of an objective that are over pairs with a rejected completion, with the names that their means have."""
PAIRS = "pairs"
"""An objective's count of such pairs."""


@dataclass(frozen=True)
class PairFigures:
    """Sums that become figures, with what to divide them by."""

    per_sample: Mapping[str, Tensor]
    """Terms of the loss; divided by the samples of the step."""
    per_pair: Mapping[str, Tensor]
    pairs: Tensor
    """Pairs with a rejected completion."""
    per_token: Mapping[str, Tensor]
    tokens: Tensor
    """Counted tokens of both completions."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all figures."""
        return (*self.per_sample, *self.per_pair, *self.per_token)


def pair_figures(scores: PairScores, loss: Loss) -> PairFigures:
    """Gathers the figures of a batch: the objective's own, how often the policy is right, and the divergence.

    Args:
        scores: ``B`` pairs.
        loss: What the objective made of them.

    Returns:
        Sums without a graph. ``kl`` is the log-ratio of policy and reference, where there is one.
    """
    told = {name: value.detach() for name, value in loss.sums.items() if name != PAIRS}
    per_pair = {OF_PAIRS[name]: value for name, value in told.items() if name in OF_PAIRS}
    per_token = {}
    if scores.reference is not None:
        per_token["kl"] = _sum_of_both(scores.policy) - _sum_of_both(scores.reference)
    return PairFigures(
        per_sample={name: value for name, value in told.items() if name not in OF_PAIRS},
        per_pair=per_pair | pair_accuracies(scores),
        pairs=scores.has_rejected.sum(),
        per_token=per_token,
        tokens=scores.chosen_tokens.sum() + scores.rejected_tokens.sum(),
    )


def _sum_of_both(log_probs: PairLogProbs) -> Tensor:
    return log_probs.chosen.detach().sum() + log_probs.rejected.detach().sum()


def no_pairs(*, has_reference: bool) -> PairScores:
    """Returns the scores of no pair at all, from which an objective tells what it logs."""
    none = torch.zeros(0)
    log_probs = PairLogProbs(none, none, none)
    nobody = torch.zeros(0, dtype=torch.bool)
    return PairScores(log_probs, log_probs if has_reference else None, none, none, none, nobody, nobody)
