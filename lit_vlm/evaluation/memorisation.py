"""How much of what a model solves it merely remembers: LiMem."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

_COUNTS = ("total", "solved", "solved_with_twin", "solved_with_twin_solved", "without_twin")


class Memorisation(NamedTuple):
    """Shares without unit, in [0, 1], NaN where there is nothing to divide by; and counts."""

    score: float
    """LiMem: accuracy x (1 - consistency). High where originals are solved and their twins are not."""
    accuracy: float
    """Solved originals among all originals."""
    consistency: float
    """Originals whose twin is solved too, among solved originals that have a twin; NaN where there are none."""
    total: int
    """Originals."""
    without_twin: int
    """Originals without a twin; they count for ``accuracy`` only."""


class LiMem(Metric):
    """Counts solved originals and solved twins.

    The score is 0 where nothing is solved, and NaN where something is solved but no solved original has a twin, since
    nothing was measured then.

    Example:
        >>> metric = LiMem()
        >>> metric.update(original_solved=[True, True, False], twin_solved=[True, False, None])
        >>> metric.compute().consistency
        0.5

    Source:
        Xie et al., On Memorization of Large Language Models in Logical Reasoning (2024), section 2. What to do with
        puzzles without a twin, and where nothing is solved, is ours.
    """

    full_state_update = False
    total: Tensor
    solved: Tensor
    solved_with_twin: Tensor
    solved_with_twin_solved: Tensor
    without_twin: Tensor

    def __init__(self, **options: Any) -> None:
        """Opens the counters.

        Args:
            options: Those of ``torchmetrics.Metric``.
        """
        super().__init__(**options)
        for name in _COUNTS:
            self.add_state(name, default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, original_solved: Sequence[bool], twin_solved: Sequence[bool | None]) -> None:
        """Counts pairs.

        Args:
            original_solved: For each original whether it was solved.
            twin_solved: For each original whether its twin was solved; None where it has none.

        Raises:
            ValueError: The two have different lengths; nothing is counted then.
        """
        if len(original_solved) != len(twin_solved):
            raise ValueError(
                f"there are {len(original_solved)} originals and {len(twin_solved)} twins; "
                "give for each original its twin's result, or None"
            )
        pairs = list(zip(original_solved, twin_solved, strict=True))
        twins_of_solved = [twin for original, twin in pairs if original and twin is not None]
        self.total += len(pairs)
        self.solved += sum(map(bool, original_solved))
        self.solved_with_twin += len(twins_of_solved)
        self.solved_with_twin_solved += sum(map(bool, twins_of_solved))
        self.without_twin += sum(twin is None for _, twin in pairs)

    def compute(self) -> Memorisation:
        """Divides the counts of all ranks."""
        total, solved, with_twin, consistent, without_twin = (int(getattr(self, name)) for name in _COUNTS)
        accuracy = solved / total if total else math.nan
        consistency = consistent / with_twin if with_twin else math.nan
        score = 0.0 if total and not solved else accuracy * (1 - consistency)
        return Memorisation(score, accuracy, consistency, total, without_twin)
