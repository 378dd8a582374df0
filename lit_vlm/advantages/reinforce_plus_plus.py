"""Advantages from the returns of single tokens, whitened over the batch, as in REINFORCE++."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lit_vlm.advantages.scores import on_device_of
from lit_vlm.functional.batch_statistics import batch_moments, whiten
from lit_vlm.functional.returns import discounted_returns, token_rewards
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import AdvantageEstimator
from lit_vlm.interfaces.rollouts import Advantages, Rewards, Rollouts, SumOverRanks


@dataclass(frozen=True)
class ReinforcePlusPlus(AdvantageEstimator):
    """Adds up the rewards from each token on, and whitens over all tokens of the batch.

    One completion a prompt is enough. A completion's reward falls on its last token, beside the rewards of
    single tokens. The divergence from a reference goes into the tokens' rewards by ``KLInReward``. All completions
    count as informative unless all returns are equal.

    Source:
        Hu, REINFORCE++ (2025), section 3. verl ``verl/trainer/ppo/core_algos.py``
        ``compute_reinforce_plus_plus_outcome_advantage`` (confirmed-in-code).
    """

    discount: float = 1.0
    """Weight of the next token's return, gamma in the paper, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise UserError(f"discount is {self.discount}; it must lie in [0, 1]")

    @property
    def needs_groups(self) -> bool:
        """Whether a prompt needs two or more completions: not here."""
        return False

    def __call__(
        self, rewards: Rewards, rollouts: Rollouts, sum_over_ranks: SumOverRanks, coefficients: Mapping[str, float]
    ) -> Advantages:
        """Computes an advantage for each token.

        Raises:
            UserError: Rewards are infinite or don't fit the rollouts.
        """
        rewards = on_device_of(rewards, rollouts)
        scorable = ~rewards.total.isnan()
        counted = rollouts.mask.bool() & scorable[:, None]
        spread = token_rewards(rewards.total.where(scorable, 0), rewards.per_token, rollouts.mask)
        returns = discounted_returns(spread, rollouts.mask, self.discount)
        moments = batch_moments(returns, counted, sum_over_ranks)
        completions = torch.stack([~scorable, torch.ones_like(scorable)]).sum(1).to(moments.mean.dtype)
        unscorable, total = sum_over_ranks(completions).tolist()
        return Advantages(
            whiten(returns, counted, sum_over_ranks),
            scorable & (moments.variance > 0),
            {
                "return_mean": moments.mean.item(),
                "return_deviation": moments.variance.sqrt().item(),
                "unscorable": unscorable / max(total, 1),
            },
        )
