"""Mean and deviation of a batch that lies on several ranks, and whitening with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.interfaces.rollouts import SumOverRanks


@dataclass(frozen=True)
class BatchMoments:
    """Count, mean and deviation of values over all ranks, scalars."""

    count: Tensor
    mean: Tensor
    """0 where there is no value."""
    variance: Tensor
    """Divided by the count less one; 0 with fewer than two values, and where values differ by rounding alone."""


def accumulation_dtype(values: Tensor) -> torch.dtype:
    """Picks the type to add up in: float64, or float32 on devices that have no float64."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def batch_moments(values: Tensor, counted: Tensor, sum_over_ranks: SumOverRanks) -> BatchMoments:
    """Computes the moments of the counted values over all ranks, in two passes: the mean, then the squared deviations.

    Args:
        values: Any shape; may be anything, NaN included, where not counted.
        counted: Whether a value counts, bool, same shape.
        sum_over_ranks: Adds a tensor up over all ranks; called twice.
    """
    wide = values.detach().to(accumulation_dtype(values))
    wide = torch.where(counted, wide, torch.zeros_like(wide))
    count, total = sum_over_ranks(torch.stack([counted.sum().to(wide.dtype), wide.sum()])).unbind()
    present = count.clamp(min=1)
    mean = total / present
    offsets = torch.where(counted, wide - mean, torch.zeros_like(wide))
    # The sum of the offsets is what rounding left in the mean.
    left, squares = sum_over_ranks(torch.stack([offsets.sum(), offsets.square().sum()])).unbind()
    mean = mean + left / present
    variance = ((squares - left.square() / present) / (count - 1).clamp(min=1)).clamp(min=0)
    rounding = 4 * torch.finfo(values.dtype).eps * mean.abs()
    return BatchMoments(count, mean, torch.where(variance.sqrt() <= rounding, torch.zeros_like(variance), variance))


def whiten(values: Tensor, counted: Tensor, sum_over_ranks: SumOverRanks, epsilon: float = 1e-8) -> Tensor:
    """Shifts and scales the counted values to mean 0 and variance 1 over all ranks.

    Args:
        values: Any shape.
        counted: Whether a value counts, bool, same shape.
        sum_over_ranks: Adds a tensor up over all ranks; called twice.
        epsilon: Added to the variance.

    Returns:
        ``(value - mean) * rsqrt(variance + epsilon)``, 0 where not counted, and everywhere where all are equal.

    Source:
        verl ``verl/utils/torch_functional.py`` ``masked_whiten`` (confirmed-in-code), which whitens each rank's part
        alone unless the batch is gathered; and the rule for equal values is ours.
    """
    moments = batch_moments(values, counted, sum_over_ranks)
    whitened = (values - moments.mean) * torch.rsqrt(moments.variance + epsilon)
    return torch.where(counted & (moments.variance > 0), whitened, torch.zeros_like(whitened)).to(values.dtype)
