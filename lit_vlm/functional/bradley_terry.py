"""Fits a reward that is linear in features to pairs of which one half is preferred.

Legend: ``N`` pairs, ``d`` features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_vlm.functional.batch_statistics import accumulation_dtype
from lit_vlm.interfaces.rollouts import SumOverRanks

STEPS = 50
"""Most Newton steps; a handful are enough but for pairs that a plane parts."""
HALVINGS = 30
TOLERANCE = 1e-9
"""Decrease of the loss, relative to it, at which a fit has come to rest."""


def fit_bradley_terry(differences: Tensor, weights: Tensor, ridge: float, sum_over_ranks: SumOverRanks) -> Tensor:
    """Finds the direction in which preferred completions score higher, by Newton's method.

    Minimises ``-sum weight log sigmoid(theta^T (phi_chosen - phi_rejected)) + ridge / 2 |theta|^2`` over the pairs of
    all ranks; the minimum is unique.

    Args:
        differences: ``phi_chosen - phi_rejected`` of this rank's pairs, shape ``(N, d)``.
        weights: Factor of each pair, 0 or more, shape ``(N,)``.
        ridge: Above 0.
        sum_over_ranks: Adds a tensor up over all ranks; every rank calls it equally often.

    Returns:
        ``theta``, shape ``(d,)``, in float64, or float32 on devices that have no float64; the same on all ranks.

    Source:
        Bradley and Terry, Rank Analysis of Incomplete Block Designs (1952), as logistic regression on differences.
    """
    wide = differences.detach().to(accumulation_dtype(differences))
    factors = weights.detach().to(wide)

    def loss_at(theta: Tensor) -> Tensor:
        total = sum_over_ranks(-(factors * logsigmoid(wide @ theta)).sum())
        return total + ridge / 2 * theta.square().sum()

    theta = wide.new_zeros(wide.shape[1])
    loss = loss_at(theta)
    for _ in range(STEPS):
        step = _newton_step(wide, factors, theta, ridge, sum_over_ranks)
        better = _shortened(theta, step, loss, loss_at)
        if better is None:
            break
        decrease, (theta, loss) = loss - better[1], better
        if decrease <= TOLERANCE * loss:
            break
    return theta


def _newton_step(wide: Tensor, factors: Tensor, theta: Tensor, ridge: float, sum_over_ranks: SumOverRanks) -> Tensor:
    doubt = torch.sigmoid(-(wide @ theta))  # (N,)
    slope = -(factors * doubt) @ wide
    bend = (wide * (factors * doubt * (1 - doubt))[:, None]).T @ wide
    slope, bend = sum_over_ranks(torch.cat([slope[None], bend])).split([1, len(bend)])
    slope, bend = slope[0] + ridge * theta, bend + ridge * torch.eye(len(theta)).to(bend)
    step: Tensor = -torch.linalg.solve(bend, slope)
    return step


def _shortened(
    theta: Tensor, step: Tensor, loss: Tensor, loss_at: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Halves a step until the loss falls; None where it does not fall at all."""
    for _ in range(HALVINGS):
        there = theta + step
        if bool((found := loss_at(there)) < loss):
            return there, found
        step = step / 2
    return None
