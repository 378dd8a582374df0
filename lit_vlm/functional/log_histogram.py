"""Histograms of quantities that span many powers of ten, and the quantiles read from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOWEST, HIGHEST = 1e-6, 20.0
GROWTH = 1.02
"""How many times wider each bin's upper edge is than its lower one."""
BINS = math.ceil(math.log(HIGHEST / LOWEST) / math.log(GROWTH)) + 2


def log_histogram(values: Tensor) -> Tensor:
    """Counts values in bins whose edges grow by 2 %, from 1e-6 to 20.

    Counts of several batches or ranks add up to the counts of all.

    Args:
        values: At least 0, any shape.

    Returns:
        Counts, float64, on the CPU, shape ``(BINS,)``; the first bin holds what is below 1e-6, the last what is above
        20.
    """
    flat = values.detach().flatten().cpu().double()
    place = torch.floor(torch.log(flat.clamp(min=LOWEST * 1e-3) / LOWEST) / math.log(GROWTH)) + 1
    return torch.bincount(place.clamp(0, BINS - 1).long(), minlength=BINS).double()


def upper_edges() -> Tensor:
    """Returns the upper edge of each bin, float64, shape ``(BINS,)``; the last is where its values are taken to end."""
    return LOWEST * GROWTH ** torch.arange(BINS, dtype=torch.float64)


def histogram_quantile(counts: Tensor, share: float) -> float:
    """Reads the value that a share of all values do not exceed.

    Between two edges values are taken to be spread evenly in their logarithm, so the result is off by 2 % at most;
    below 1e-6 it is 0.

    Args:
        counts: As of ``log_histogram``, at least one value among them.
        share: In [0, 1].

    Raises:
        ValueError: There is no value.
    """
    total = float(counts.sum())
    if total <= 0:
        raise ValueError("an empty histogram has no quantiles")
    reached = counts.cumsum(0)
    wanted = max(share, 1e-9) * total  # a share of 0 is the lowest value
    place = min(int(torch.searchsorted(reached, wanted)), len(counts) - 1)
    if place == 0:
        return 0.0
    within = (wanted - float(reached[place - 1])) / float(counts[place])
    return float(LOWEST * GROWTH ** (place - 1 + within))
