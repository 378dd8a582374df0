"""The divergence from a reference as a part of the reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from lit_vlm.functional.kl_estimators import KLEstimator, check_kl_estimator, kl_estimate
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import AdvantageEstimator
from lit_vlm.interfaces.rollouts import Advantages, Rewards, Rollouts, SumOverRanks


@dataclass(frozen=True)
class KLInReward(AdvantageEstimator):
    """Takes the divergence from the reference off the rewards before another estimator reads them.

    Each token's reward loses ``kl`` times its estimate. ``ReinforcePlusPlus`` reads the rewards of single tokens; the
    others add them up over a completion. The estimate is of the policy that sampled, without a gradient. Groups whose
    other rewards are equal then count as informative.

    Coefficients: ``kl``, and those of the estimator.

    Source:
        Ouyang et al., InstructGPT (2022), equation 2; Ahmadian et al., Back to Basics (2024). TRL
        ``trl/trainer/rloo_trainer.py`` (sum over a completion), verl ``verl/trainer/ppo/ray_trainer.py``
        ``apply_kl_penalty`` (single tokens) (confirmed-in-code).
    """

    estimator: AdvantageEstimator
    """Turns the rewards that are left into advantages."""
    kl: float = 0.05
    """Weight of the divergence, in rewards a nat."""
    highest_kl: float = 1.0
    """Highest weight that callbacks may set, above 0."""
    kl_estimator: KLEstimator = "k1"
    """Estimate of the divergence; there is no gradient, so ``k1+`` is ``k1``."""

    def __post_init__(self) -> None:
        check_kl_estimator(self.kl_estimator, "kl_estimator")
        if not (0 <= self.kl <= self.highest_kl < math.inf and self.highest_kl > 0):
            raise UserError(
                f"kl is {self.kl} and highest_kl {self.highest_kl}; they must be finite, with "
                "0 <= kl <= highest_kl and highest_kl above 0"
            )
        if "kl" in self.estimator.coefficients():
            raise UserError("estimator takes the divergence off the reward already; name KLInReward once")

    @property
    def needs_groups(self) -> bool:
        """Whether a prompt needs two or more completions: as the estimator."""
        return self.estimator.needs_groups

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the reference's log-probabilities."""
        return True

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares ``kl``, and what the estimator does."""
        return {"kl": Coefficient(self.kl, 0.0, self.highest_kl), **self.estimator.coefficients()}

    def __call__(
        self, rewards: Rewards, rollouts: Rollouts, sum_over_ranks: SumOverRanks, coefficients: Mapping[str, float]
    ) -> Advantages:
        """Computes the estimator's advantages of the rewards less the divergence.

        Raises:
            UserError: There is no reference.
        """
        if rollouts.reference_log_probs is None:
            raise UserError("KLInReward has no reference to compare with; give the module one, or leave KLInReward out")
        counted = rollouts.mask.bool()
        divergences = kl_estimate(
            rollouts.log_probs.detach().masked_fill(~counted, 0),
            rollouts.reference_log_probs.detach().masked_fill(~counted, 0),
            self.kl_estimator,
        ).to(rewards.total.dtype)
        per_token = -coefficients["kl"] * divergences
        if rewards.per_token is not None:
            per_token = per_token + rewards.per_token.to(per_token)
        penalised = replace(rewards, per_token=per_token)
        advantages = self.estimator(penalised, rollouts, sum_over_ranks, coefficients)
        sums = torch.stack([divergences.sum(), counted.sum().to(divergences.dtype)])
        total, tokens = sum_over_ranks(sums).tolist()
        return replace(advantages, figures={**advantages.figures, "reward_kl": total / max(tokens, 1)})
