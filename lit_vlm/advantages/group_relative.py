"""Advantages relative to the other completions of the same prompt, as in GRPO, Dr. GRPO and GDPO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_vlm.advantages.scores import check_groups, group_figures, over_tokens, scored_groups
from lit_vlm.functional.batch_statistics import batch_moments
from lit_vlm.functional.groups import GroupStatistics, group_statistics
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import AdvantageEstimator
from lit_vlm.interfaces.rollouts import Advantages, Rewards, Rollouts, SumOverRanks


@dataclass(frozen=True)
class GroupRelative(AdvantageEstimator):
    """Subtracts the mean reward of a completion's group, and divides by a deviation.

    Deviations have Bessel's correction. Unscorable completions are left out of all statistics and get 0; a group of
    equal rewards gets exactly 0, whatever rounding does to its mean.

    Source:
        Shao et al., DeepSeekMath (2024), section 4.1.2, which has neither an epsilon nor the correction; Liu et al.,
        Understanding R1-Zero-Like Training (2025), section 3.2 (``none``); Liu et al., GDPO (2026)
        (``normalize_then_sum``). TRL 1.16 ``trl/trainer/grpo_trainer.py`` ``_generate_and_score_completions``, verl
        ``verl/trainer/ppo/core_algos.py`` ``compute_grpo_outcome_advantage`` (confirmed-in-code). The rule for equal
        rewards is ours.
    """

    scale: Literal["group", "batch", "none"] = "group"
    """Deviation to divide by: that of the group, that of all rewards of the batch, or none (Dr. GRPO)."""
    epsilon: float = 1e-4
    """Added to the deviation. TRL: 1e-4; verl and EasyR1: 1e-6; OpenRLHF: 1e-9."""
    single: Literal["zero", "raw"] = "zero"
    """What the only scorable completion of a group gets: 0, or its reward as it is (verl)."""
    normalize_then_sum: bool = False
    """Normalises each reward function within the group, then sums with the weights, then whitens over the batch
    (GDPO), so that no function drowns the others."""

    def __post_init__(self) -> None:
        for name, choices in (("scale", ("group", "batch", "none")), ("single", ("zero", "raw"))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if not 0 < self.epsilon < math.inf:
            raise UserError(f"epsilon is {self.epsilon}; it must be above 0 and finite")
        if self.normalize_then_sum and (self.scale, self.single) != ("group", "zero"):
            raise UserError("normalize_then_sum goes with scale group and single zero only")

    @property
    def needs_groups(self) -> bool:
        """Whether a prompt needs two or more completions: unless single ones get their reward."""
        return self.single == "zero"

    def __call__(
        self, rewards: Rewards, rollouts: Rollouts, sum_over_ranks: SumOverRanks, coefficients: Mapping[str, float]
    ) -> Advantages:
        """Computes one advantage for each completion, the same for all its tokens.

        Raises:
            UserError: Rewards are infinite or don't fit the rollouts, or each prompt has one completion.
        """
        rewards, scores, groups = scored_groups(rewards, rollouts)
        if self.needs_groups:
            check_groups(groups, "GroupRelative", "set single to raw")
        if self.normalize_then_sum:
            if rewards.per_token is not None:
                raise UserError(
                    "normalize_then_sum goes by whole reward functions, but here single tokens are rewarded, if by "
                    "KLInReward; set normalize_then_sum to false, or put the divergence into the loss"
                )
            values, informative = self._normalized_parts(rewards, rollouts.prompt_of, sum_over_ranks)
        else:
            values, informative = self._normalized_totals(scores, groups, sum_over_ranks)
        values = values.where(~scores.isnan(), 0)
        return Advantages(
            over_tokens(values, rollouts.mask, scores.dtype),
            informative,
            group_figures(groups, scores, sum_over_ranks),
        )

    def _normalized_totals(
        self, totals: Tensor, groups: GroupStatistics, sum_over_ranks: SumOverRanks
    ) -> tuple[Tensor, Tensor]:
        values = (totals - groups.means).where(groups.differ, 0)
        if self.scale == "group":
            values = values / (groups.deviations + self.epsilon)
        elif self.scale == "batch":
            moments = batch_moments(totals, ~totals.isnan(), sum_over_ranks)
            values = values / (moments.variance.sqrt() + self.epsilon)
        if self.single == "zero":
            return values, groups.differ
        lone = groups.counts == 1
        return values.where(~lone, totals.to(values.dtype)), groups.differ | lone

    def _normalized_parts(
        self, rewards: Rewards, group_of: Tensor, sum_over_ranks: SumOverRanks
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(rewards.total)
        informative = torch.zeros_like(rewards.total, dtype=torch.bool)
        for part, weight in zip(rewards.parts.unbind(1), rewards.weights.unbind(), strict=True):
            groups = group_statistics(part, group_of)
            normalized = (part - groups.means) / (groups.deviations + self.epsilon)
            total = total + weight * normalized.where(groups.differ & ~part.isnan(), 0)
            informative = informative | (groups.differ & (weight != 0))
        moments = batch_moments(total, ~rewards.total.isnan(), sum_over_ranks)
        whitened = (total - moments.mean) / (moments.variance.sqrt() + self.epsilon)
        return whitened.where(informative, 0), informative
