"""Keeps groups that teach: the test of dynamic sampling and online filtering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lit_vlm.functional.groups import group_statistics
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Rewards


@dataclass(frozen=True)
class GroupFilter:
    """Keeps groups of completions whose scores differ, or whose mean score lies within a range.

    Sampling again until there are enough groups is the work of who asks.

    Source:
        Yu et al., DAPO (2025), section 3.2, and verl ``docs/algo/dapo.md`` (``differs``); EasyR1
        ``verl/trainer/ray_trainer.py`` (``range``) (confirmed-in-code).
    """

    metric: str = "correct"
    """Score to go by: a reward function, a named detail of one (``name``, or ``reward/name`` where several have it), or
    ``reward``, the weighted sum."""
    rule: Literal["differs", "range"] = "differs"
    """``differs``: completions of the group score differently; ``range``: their mean lies between ``low`` and
    ``high``, both excluded."""
    low: float = 0.01
    """Mean score above which ``range`` keeps a group."""
    high: float = 0.99
    """Mean score below which ``range`` keeps a group."""

    def __post_init__(self) -> None:
        if self.rule not in ("differs", "range"):
            raise UserError(f"rule is {self.rule!r}; it must be one of differs, range")
        if not self.low < self.high:
            raise UserError(f"low is {self.low} and high {self.high}; low must be below high")

    def scores(self, rewards: Rewards) -> Tensor:
        """Picks the score of each completion, NaN where it has none, shape ``(B,)``.

        Raises:
            UserError: No reward gives such a score, or several do; the message lists those there are.
        """
        known = {
            "reward": rewards.total,
            **dict(zip(rewards.names, rewards.parts.unbind(1), strict=True)),
            **rewards.details,
        }
        if self.metric in known:
            return known[self.metric]
        matches = [name for name in known if name.endswith(f"/{self.metric}")]
        if len(matches) != 1:
            told = "several rewards give" if matches else "no reward gives"
            raise UserError(f"the group filter goes by {self.metric!r}, which {told}; there are {', '.join(known)}")
        return known[matches[0]]

    def __call__(self, rewards: Rewards, group_of: Tensor) -> Tensor:
        """Tells which completions belong to a group worth keeping, bool, shape ``(B,)``.

        Completions without a score don't count; a group without any score is not kept.

        Args:
            rewards: Of the completions.
            group_of: Equal numbers are a group, shape ``(B,)``.

        Raises:
            UserError: No reward gives the metric, or several do.
        """
        groups = group_statistics(self.scores(rewards).to(group_of.device), group_of)
        if self.rule == "differs":
            return groups.differ
        return (groups.counts > 0) & (self.low < groups.means) & (groups.means < self.high)
