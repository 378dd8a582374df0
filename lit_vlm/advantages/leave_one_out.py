"""Advantages against the mean of the other completions of the same prompt, as in RLOO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lit_vlm.advantages.scores import check_groups, group_figures, over_tokens, scored_groups
from lit_vlm.functional.batch_statistics import batch_moments
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import AdvantageEstimator
from lit_vlm.interfaces.rollouts import Advantages, Rewards, Rollouts, SumOverRanks


@dataclass(frozen=True)
class LeaveOneOut(AdvantageEstimator):
    """Subtracts the mean reward of the other completions of the group.

    The only scorable completion of a group gets 0 and is counted. The divergence from a reference goes into the reward
    by ``KLInReward``.

    Source:
        Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free (2019); Ahmadian et al., Back to Basics (2024).
        TRL ``trl/trainer/rloo_trainer.py``, verl ``verl/trainer/ppo/core_algos.py``
        ``compute_rloo_outcome_advantage`` (confirmed-in-code). TRL clips the ratio of whole completions there; the
        objective decides that here.
    """

    normalize: bool = False
    """Whitens the advantages over the batch."""
    epsilon: float = 1e-4
    """Added to the deviation where ``normalize`` is set."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise UserError(f"epsilon is {self.epsilon}; it must be above 0 and finite")

    def __call__(
        self, rewards: Rewards, rollouts: Rollouts, sum_over_ranks: SumOverRanks, coefficients: Mapping[str, float]
    ) -> Advantages:
        """Computes one advantage for each completion, the same for all its tokens.

        Raises:
            UserError: Rewards are infinite or don't fit the rollouts, or each prompt has one completion.
        """
        _, scores, groups = scored_groups(rewards, rollouts)
        check_groups(groups, "LeaveOneOut", "choose ReinforcePlusPlus")
        scorable = ~scores.isnan()
        others = (groups.counts - 1).clamp(min=1)
        values = (groups.counts / others) * (scores - groups.means).where(groups.differ & scorable, 0)
        if self.normalize:
            moments = batch_moments(values, scorable & (groups.counts > 1), sum_over_ranks)
            values = (values - moments.mean) / (moments.variance.sqrt() + self.epsilon)
            values = values.where(groups.differ & scorable, 0)
        return Advantages(
            over_tokens(values, rollouts.mask, scores.dtype),
            groups.differ,
            group_figures(groups, scores, sum_over_ranks),
        )
