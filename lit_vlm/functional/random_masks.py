"""Random pruning of tensors: which numbers stay depends on a seed alone, not on device, threads or order of work."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_vlm.functional.task_vectors import PIECE, Pieces

_RANGE = 1 << 32


def kept_at_random(delta: Tensor, density: float, seed: int) -> Pieces:
    """Gives a tensor in pieces, each number set to 0 with probability ``1 - density``.

    Args:
        delta: Any shape.
        density: Probability that a number stays, in [0, 1], taken to 32 bits.
        seed: Of the mask, 0 or more.

    Example:
        >>> kept = kept_at_random(torch.ones(4096), 0.25, seed=7)(0, 4096)
        >>> 0.2 < kept.mean().item() < 0.3
        True
    """
    flat = delta.reshape(-1)
    bound = round(density * _RANGE)

    def piece(start: int, stop: int) -> Tensor:
        numbers = flat[start:stop]
        kept = torch.from_numpy(_random_numbers(seed, start, stop - start) < bound)
        return numbers * kept.to(numbers.device)

    return piece


def kept_by_rank(delta: Tensor, density: float, epsilon: float, seed: int, *, inverse_probability: bool) -> Tensor:
    """Sets numbers to 0 at random, the more likely the smaller their magnitude is in their row.

    The number of rank ``r`` from 0, smallest first, in a row of ``m`` stays with probability
    ``density - epsilon + 2 epsilon r / (m - 1)``; in a row of one with ``density``. Of equal magnitudes the first has
    the lowest rank.

    Args:
        delta: Float32; a row is what belongs to one index of the first dimension, or a whole vector.
        density: Mean probability that a number stays.
        epsilon: What the extremes differ from it by; both must stay within [0, 1], and above 0 to divide.
        seed: Of the mask, 0 or more.
        inverse_probability: Whether what stays is divided by its probability, which keeps the expectation.

    Returns:
        A new tensor of the same shape.

    Source:
        Deep et al., DELLA-Merging (2024), section 3.1, MagPrune.
    """
    rows = delta.reshape(delta.shape[0], -1) if delta.ndim > 1 else delta.reshape(1, -1)
    width = rows.shape[1]
    slope = torch.linspace(-epsilon, epsilon, width, dtype=torch.float64) if width > 1 else torch.zeros(width)
    probabilities = slope.double() + density
    bounds = (probabilities * _RANGE).round().numpy()
    factors = (1 / probabilities if inverse_probability else torch.ones_like(probabilities)).float()
    result = torch.zeros_like(rows, memory_format=torch.contiguous_format)
    step = max(1, PIECE // max(1, width))
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        drawn = _random_numbers(seed, first * width, block.numel()).reshape(block.shape)
        kept = torch.from_numpy(drawn < bounds) * factors
        by_rank = kept.to(block)  # in the order of the magnitudes
        result[first : first + step].scatter_(1, _order_by_magnitude(block), by_rank).mul_(block)
    return result.view(delta.shape)


def _random_numbers(seed: int, start: int, count: int) -> NDArray[np.uint32]:
    """Draws 32-bit numbers for the piece of a tensor that begins at ``start``."""
    pairs = np.random.PCG64([seed, start]).random_raw((count + 1) // 2)
    return np.asarray(pairs, dtype="<u8").view("<u4")[:count]


def _order_by_magnitude(rows: Tensor) -> Tensor:
    """Returns each row's columns in the order of the magnitudes, smallest first, of equal ones the first first.

    Magnitude and column are put into one integer, so that a plain sort, much faster than a stable one, has no ties.
    """
    bits = (rows.contiguous().view(torch.int32) & 0x7FFFFFFF).long()
    keys = bits << 32 | torch.arange(rows.shape[1], device=rows.device)
    if keys.device.type == "cpu":
        in_order = keys.numpy()
        in_order.sort(axis=1)
    else:
        keys = keys.sort(dim=1).values
    return keys & 0xFFFFFFFF
