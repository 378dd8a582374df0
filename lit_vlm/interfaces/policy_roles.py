"""Roles of reinforcement learning: abstract bases with one method that matters each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.rollouts import (
    Advantages,
    Loss,
    PolicyBatch,
    PolicyTotals,
    Rewards,
    Rollouts,
    SumOverRanks,
)


class AdvantageEstimator(ABC):
    """Turns rewards into advantages."""

    @property
    def needs_groups(self) -> bool:
        """Whether a prompt needs two or more completions."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Whether it reads ``Rollouts.reference_log_probs``."""
        return False

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the numbers that callbacks may turn, by name."""
        return {}

    @abstractmethod
    def __call__(
        self, rewards: Rewards, rollouts: Rollouts, sum_over_ranks: SumOverRanks, coefficients: Mapping[str, float]
    ) -> Advantages:
        """Computes the advantage of each token; a group lies on one rank, statistics of the batch span all ranks.

        Args:
            rewards: What the completions scored.
            rollouts: The completions.
            sum_over_ranks: Adds a tensor up over all ranks; every rank must call it equally often.
            coefficients: Present values of what ``coefficients`` declares, and others' beside them.
        """


class PolicyObjective(ABC):
    """Turns log-probabilities and advantages into a loss."""

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with a reference."""
        return False

    @property
    def needs_entropies(self) -> bool:
        """Whether it wants the policy's entropies, with a graph."""
        return False

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the numbers that callbacks may turn, by name."""
        return {}

    @abstractmethod
    def __call__(self, batch: PolicyBatch, totals: PolicyTotals, coefficients: Mapping[str, float]) -> Loss:
        """Computes this micro-batch's share of the loss over ``totals``.

        Args:
            batch: Log-probabilities and advantages of some completions.
            totals: Counts over the whole optimizer step.
            coefficients: Present values of what ``coefficients`` declares, and others' beside them.
        """
