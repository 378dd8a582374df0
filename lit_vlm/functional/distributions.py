"""Summaries of whole numbers, such as the lengths of rows: bounds, median, percentile, histogram."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MOST_BINS = 12


@dataclass(frozen=True)
class Bin:
    """How many values lie from ``low`` to ``high``, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class Distribution:
    """How a set of whole numbers is spread."""

    count: int
    total: int
    minimum: int
    median: float
    percentile_95: int
    """The smallest value that at least 95 % of the values do not exceed."""
    maximum: int
    bins: tuple[Bin, ...]
    """Equally wide, in order, without gaps, from the bin of the minimum to that of the maximum."""

    def to_json(self) -> dict[str, Any]:
        """A record of plain numbers."""
        return asdict(self)


def distribution(values: Sequence[int], most_bins: int = MOST_BINS) -> Distribution | None:
    """Summarises values of at least 0; None where there are none.

    Args:
        values: Whole numbers in any order.
        most_bins: Bins of the histogram at most, at least 2; their width is 1, 2 or 5 times a power of ten.

    Example:
        >>> [(item.low, item.high, item.count) for item in distribution([1, 2, 2, 14], most_bins=3).bins]
        [(0, 4, 3), (5, 9, 0), (10, 14, 1)]
    """
    if not values:
        return None
    ordered = sorted(values)
    width = _bin_width(ordered[0], ordered[-1], most_bins)
    counts = Counter(value // width for value in ordered)
    return Distribution(
        count=len(ordered),
        total=sum(ordered),
        minimum=ordered[0],
        median=statistics.median(ordered),
        percentile_95=ordered[math.ceil(0.95 * len(ordered)) - 1],
        maximum=ordered[-1],
        bins=tuple(
            Bin(index * width, (index + 1) * width - 1, counts[index])
            for index in range(ordered[0] // width, ordered[-1] // width + 1)
        ),
    )


def _bin_width(low: int, high: int, most_bins: int) -> int:
    power = 1
    while True:
        for step in (1, 2, 5):
            width = step * power
            if high // width - low // width < most_bins:
                return width
        power *= 10


def spread_evenly(total: int, count: int) -> list[int]:
    """Picks ``count`` of ``total`` positions, all where there are fewer, evenly and in order, the first among them.

    Example:
        >>> spread_evenly(10, 3)
        [0, 3, 6]
    """
    count = min(total, count)
    return [position * total // count for position in range(count)]
