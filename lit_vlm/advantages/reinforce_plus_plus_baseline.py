"""Rewards less the mean of their group, whitened over the batch, as in REINFORCE++-baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lit_vlm.advantages.scores import check_groups, group_figures, over_tokens, scored_groups
from lit_vlm.functional.batch_statistics import whiten
from lit_vlm.interfaces.policy_roles import AdvantageEstimator
from lit_vlm.interfaces.rollouts import Advantages, Rewards, Rollouts, SumOverRanks


@dataclass(frozen=True)
class ReinforcePlusPlusBaseline(AdvantageEstimator):
    """Subtracts the mean reward of the group, gives it to every token, and whitens over all tokens of the batch.

    Whitening is over tokens, so that groups of equal rewards get a small advantage, the same for all of their tokens,
    unless the mean over tokens is 0. The only scorable completion of a group gets 0 and is left out.

    Source:
        Hu, REINFORCE++ (2025), section 3. verl ``verl/trainer/ppo/core_algos.py``
        ``compute_reinforce_plus_plus_baseline_outcome_advantage`` (confirmed-in-code), where a group of one keeps its
        reward.
    """

    def __call__(
        self, rewards: Rewards, rollouts: Rollouts, sum_over_ranks: SumOverRanks, coefficients: Mapping[str, float]
    ) -> Advantages:
        """Computes one advantage for each completion, the same for all its tokens.

        Raises:
            UserError: Rewards are infinite or don't fit the rollouts, or each prompt has one completion.
        """
        _, scores, groups = scored_groups(rewards, rollouts)
        check_groups(groups, "ReinforcePlusPlusBaseline", "choose ReinforcePlusPlus")
        scorable = ~scores.isnan() & (groups.counts > 1)
        centred = (scores - groups.means).where(groups.differ & scorable, 0)
        values = over_tokens(centred, rollouts.mask, scores.dtype)
        return Advantages(
            whiten(values, rollouts.mask.bool() & scorable[:, None], sum_over_ranks),
            groups.differ,
            group_figures(groups, scores, sum_over_ranks),
        )
