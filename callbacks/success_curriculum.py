"""Draws most often what is solved about half of the time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lit_vlm.callbacks.curriculum import CORRECT, Curriculum
from lit_vlm.interfaces.capabilities import ArmKind
from lit_vlm.interfaces.errors import UserError


class SuccessRateCurriculum(Curriculum):
    """Draws each arm in proportion to ``(p (1 - p) + floor)^(1 / temperature)``, with ``p`` its running success rate.

    ``p (1 - p)`` is the variance of an attempt's success, thus of what a group's advantages are made of: it is largest
    at the frontier of what the policy can do, and 0 for what it always or never solves. Untried arms have the prior.

    Args:
        by: ``category``, ``difficulty`` or ``sample``.
        prior: Success rate where the average of each arm begins, in [0, 1]; at 0.5 untried arms come first.
        floor: Added to each variance, above 0, so that no arm is given up; the variance itself is 0.25 at most.
        temperature: Above 1 shares are more alike, below 1 less.
        success: ``correct``, or the name of a reward within [0, 1].
        smoothing: Weight of a round in the success rate.
        every_n_rounds: Rounds from one steering to the next; with ``sample`` each costs about a second for a million
            arms.

    Source:
        The weights are ours. SEC (Self-Evolving Curriculum, 2025) is its kin: a bandit whose reward is the mean
        absolute advantage, which is largest at a success rate of 0.5 too.
    """

    def __init__(
        self,
        by: ArmKind = "category",
        *,
        prior: float = 0.5,
        floor: float = 0.02,
        temperature: float = 1.0,
        success: str = CORRECT,
        smoothing: float = 0.3,
        every_n_rounds: int = 1,
    ) -> None:
        super().__init__(by, success=success, smoothing=smoothing, every_n_rounds=every_n_rounds)
        if not 0 <= prior <= 1:
            raise UserError(f"SuccessRateCurriculum.prior is {prior}; it must lie in [0, 1]")
        if not (0 < floor < math.inf and 0 < temperature < math.inf):
            raise UserError(
                f"SuccessRateCurriculum has floor {floor} and temperature {temperature}; give positive numbers"
            )
        self.prior = prior
        self.floor = floor
        self.temperature = temperature

    def probabilities(self, step: int) -> Mapping[str, float]:
        """Computes the share of each arm; they add up to 1."""
        return self.by_arm(frontier_shares(self.success_rates(self.prior), self.floor, self.temperature))


def frontier_shares(rates: Tensor, floor: float, temperature: float) -> Tensor:
    """Computes shares in proportion to ``(p (1 - p) + floor)^(1 / temperature)``.

    Args:
        rates: Success rates ``p`` in [0, 1], shape ``(A,)``.
        floor: Above 0.
        temperature: Above 0.

    Returns:
        Shape ``(A,)``; they add up to 1.

    Example:
        >>> frontier_shares(torch.tensor([0.5, 0.0, 1.0]), floor=0.25, temperature=1.0)
        tensor([0.5000, 0.2500, 0.2500])
    """
    variances = (rates * (1 - rates)).clamp(min=0)
    return torch.softmax(torch.log(variances + floor) / temperature, dim=0)
