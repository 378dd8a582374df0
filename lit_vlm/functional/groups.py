"""Statistics of groups: the completions of one prompt. Legend: ``B`` completions, ``K`` reward functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.functional.batch_statistics import accumulation_dtype


@dataclass(frozen=True)
class GroupStatistics:
    """What each completion's group has in common, one row for each completion, over members with a value.

    All of shape ``(B,)``.
    """

    counts: Tensor
    """Members with a value, int64."""
    means: Tensor
    """0 where no member has a value."""
    deviations: Tensor
    """Divided by the count less one; 0 with fewer than two values, and exactly 0 where all are equal."""
    differ: Tensor
    """Whether there are two different values, bool."""
    leads: Tensor
    """Whether a completion is the first of its group, bool; so a sum over leading rows counts groups."""


def group_statistics(values: Tensor, group_of: Tensor) -> GroupStatistics:
    """Computes count, mean and deviation of the values in each group.

    Args:
        values: One for each completion, NaN where it has none, shape ``(B,)``.
        group_of: Equal numbers are a group, in any order, shape ``(B,)``.

    Returns:
        Figures in float64, or float32 on devices that have no float64.
    """
    wide = values.detach().to(accumulation_dtype(values))
    present = ~wide.isnan()
    known = torch.where(present, wide, torch.zeros_like(wide))
    groups, group = group_of.unique(return_inverse=True)

    def totals(numbers: Tensor) -> Tensor:
        return torch.zeros(len(groups), dtype=numbers.dtype, device=numbers.device).index_add(0, group, numbers)

    counts = totals(present.long())
    means = totals(known) / counts.clamp(min=1)
    offsets = torch.where(present, wide - means[group], torch.zeros_like(wide))
    variances = totals(offsets.square()) / (counts - 1).clamp(min=1)
    highest = torch.full_like(means, -torch.inf).scatter_reduce(0, group, known.where(present, -torch.inf), "amax")
    lowest = torch.full_like(means, torch.inf).scatter_reduce(0, group, known.where(present, torch.inf), "amin")
    differ = highest > lowest
    rows = torch.arange(len(group), device=group.device)
    first = torch.full_like(groups, len(group)).scatter_reduce(0, group, rows, "amin")
    return GroupStatistics(
        counts=counts[group],
        means=means[group],
        deviations=torch.where(differ, variances.sqrt(), torch.zeros_like(variances))[group],
        differ=differ[group],
        leads=first[group] == rows,
    )


def weighted_total(parts: Tensor, weights: Tensor) -> Tensor:
    """Adds up the weighted rewards of each completion over the functions that apply.

    Args:
        parts: Reward of each function, NaN where it does not apply, shape ``(B, K)``.
        weights: Weight of each function, shape ``(K,)``.

    Returns:
        Shape ``(B,)``; NaN where no function applies.

    Example:
        >>> weighted_total(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]), torch.tensor([2.0, 1.0]))
        tensor([2., nan])

    Source:
        TRL ``trl/trainer/grpo_trainer.py`` ``_generate_and_score_completions`` (confirmed-in-code).
    """
    unscorable = parts.isnan().all(1)
    return torch.where(unscorable, torch.nan, (parts * weights).nansum(1))
