"""Share of right answers by group, with intervals."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.errors import UserError


class Proportion(NamedTuple):
    """A measured share, without unit."""

    mean: float
    low: float
    """Lower bound of the Wilson interval."""
    high: float
    """Upper bound of the Wilson interval."""
    total: int
    """Completions counted."""


class ExactMatch(Metric):
    """Counts right completions in every group they belong to (task, answer type, all).

    The groups are known before the first row, so that each rank holds the same counters and sums them at the end. A
    completion without a readable answer is a wrong one, never left out. Any other yes or no of a completion, such as
    whether it is well formed, can be counted likewise by a metric of its own.

    Example:
        >>> metric = ExactMatch(groups=["all", "sum", "compare"])
        >>> metric.update([["all", "sum"], ["all", "compare"]], correct=[True, False])
        >>> metric.compute()["all"].mean, sorted(metric.compute())
        (0.5, ['all', 'compare', 'sum'])
    """

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, groups: Sequence[str], confidence: float = 0.95, **options: Any) -> None:
        """Opens one counter for each group.

        Args:
            groups: Names of all groups, each once, in the order they are reported.
            confidence: Of the intervals, in (0, 1).
            options: Those of ``torchmetrics.Metric``.

        Raises:
            UserError: No group is given, or one twice, or ``confidence`` is out of range.
        """
        super().__init__(**options)
        if not groups or len(set(groups)) != len(groups):
            raise UserError(f"groups is {list(groups)}; name one or more groups, each once")
        if not 0 < confidence < 1:
            raise UserError(f"confidence is {confidence}; it must be above 0 and below 1, as 0.95")
        self.groups = tuple(groups)
        self.confidence = confidence
        self._index_of = {group: index for index, group in enumerate(groups)}
        for name in ("correct", "total"):
            self.add_state(name, default=torch.zeros(len(groups), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, groups: Sequence[Sequence[str]], correct: Sequence[bool]) -> None:
        """Counts completions.

        Args:
            groups: For each completion the names of its groups; one named twice counts once.
            correct: For each completion whether its answer agrees with the ground truth.

        Raises:
            UserError: A group was not named at construction; nothing is counted then.
            ValueError: There are not as many rows of groups as completions.
        """
        unknown = sorted({group for row in groups for group in row} - set(self.groups))
        if unknown:
            raise UserError(f"unknown groups {unknown}; this metric was built with {list(self.groups)}")
        counts = torch.zeros(2, len(self.groups), dtype=torch.long)
        for row, is_correct in zip(groups, correct, strict=True):
            for group in set(row):
                counts[0, self._index_of[group]] += bool(is_correct)
                counts[1, self._index_of[group]] += 1
        added = counts.to(self.total.device)
        self.correct += added[0]
        self.total += added[1]

    def compute(self) -> dict[str, Proportion]:
        """Divides the counts of all ranks; groups without rows are left out."""
        counts = zip(self.groups, self.correct.tolist(), self.total.tolist(), strict=True)
        return {group: self._proportion(correct, total) for group, correct, total in counts if total}

    def _proportion(self, successes: int, total: int) -> Proportion:
        low, high = wilson_interval(successes, total, self.confidence)
        return Proportion(mean=successes / total, low=low, high=high, total=total)
