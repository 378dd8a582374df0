"""Corrects for completions that another program sampled than the one that learns, by weights of their tokens.

The two hold the same weights, yet compute in another order, in other kernels or another type: the log-probabilities
differ, and with them the policy that a gradient is of. Legend: ``B`` completions, ``T`` tokens.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Level = Literal["token", "sequence", "mean"]
"""A ratio for each token; their product over a completion; or the geometric mean of that."""
Bound = Literal["truncated", "masked"]
"""What becomes of a ratio out of bounds: it is cut down to the highest, or it counts as 0."""
LEVELS, BOUNDS = get_args(Level), get_args(Bound)
LARGEST_LOG_RATIO = 20.0
"""In nats; beyond it a ratio is out of any bounds, and its exponential of no use."""


def importance_ratios(log_probs: Tensor, sampled_log_probs: Tensor, mask: Tensor, level: Level) -> Tensor:
    """Divides the probabilities under the policy that learns by those under the one that sampled.

    Args:
        log_probs: Under the policy that learns, shape ``(B, T)``.
        sampled_log_probs: Under the one that sampled, shape ``(B, T)``.
        mask: 1 on tokens that count, shape ``(B, T)``.
        level: What there is a ratio of.

    Returns:
        Ratios without a graph, 1 where masked, shape ``(B, T)``; those of a completion are the same unless ``level`` is
        ``token``.

    Example:
        >>> ones = torch.ones(1, 2)
        >>> importance_ratios(torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[0.25, 0.25]]).log(), ones, "sequence")
        tensor([[2., 2.]])
    """
    counted = mask.bool()
    differences = (log_probs.detach() - sampled_log_probs.detach()).masked_fill(~counted, 0)
    if level != "token":
        sums = differences.sum(1, keepdim=True)
        if level == "mean":
            sums = sums / counted.sum(1, keepdim=True).clamp(min=1)
        differences = sums.expand_as(differences)
    return differences.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp().masked_fill(~counted, 1)


def bounded_weights(ratios: Tensor, bound: Bound, lowest: float, highest: float) -> Tensor:
    """Keeps ratios within bounds, so that none outweighs the others.

    Args:
        ratios: Above 0, of any shape.
        bound: What becomes of those out of bounds.
        lowest: Only for ``masked``.
        highest: Largest ratio that counts in full.

    Returns:
        Weights of the same shape: ``min(ratio, highest)``, or the ratio where ``lowest <= ratio <= highest`` and 0
        elsewhere.

    Source:
        Truncated: Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training (2025), section
        on truncated importance sampling (TIS), after Ionides, Truncated Importance Sampling (2008). Masked: Ling Team,
        Every Step Evolves (2025), section on IcePop, whose bounds are 0.5 and 5. TRL 1.16
        ``trl/trainer/grpo_trainer.py``, ``token_truncate`` to ``sequence_mask`` (confirmed-in-code). We differ: what is
        truncated has no lower bound.

    Example:
        >>> ratios = torch.tensor([0.25, 1.5, 8.0])
        >>> bounded_weights(ratios, "truncated", 0.5, 2.0), bounded_weights(ratios, "masked", 0.5, 2.0)
        (tensor([0.2500, 1.5000, 2.0000]), tensor([0.0000, 1.5000, 0.0000]))
    """
    if bound == "truncated":
        return ratios.clamp(max=highest)
    return torch.where((ratios >= lowest) & (ratios <= highest), ratios, 0.0)
