"""Tilts a gradient against a direction, so that descent moves along the direction.

All rules subtract a multiple of the direction, ``g' = g - f d``; they differ in the factor ``f``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

BiasMode = Literal["absolute", "gradnorm", "adaptive_cosine"]

ALPHA_SHARE = "alpha_share"
"""Name of the coefficient that multiplies each weight's own strength."""

SMALLEST_NORM = 1e-12
"""Gradients and directions whose norm is below this are no directions; such a gradient is left as it is."""


@dataclass(frozen=True)
class BiasStrength:
    """How far one tensor's gradient is tilted; all are numbers without shape, on the gradient's device."""

    factor: Tensor
    """Multiple of the direction that is subtracted; 0 where gradient or direction is zero."""
    cosine: Tensor
    """Of gradient and direction, in [-1, 1]; 0 where one of them is zero."""
    gradient_norm: Tensor
    """Before it is tilted."""
    direction_norm: Tensor
    counts: Tensor
    """1 where neither gradient nor direction is zero, else 0."""


def bias_strength(
    gradient: Tensor,
    direction: Tensor,
    alpha: float,
    mode: BiasMode = "adaptive_cosine",
    total: Callable[[Tensor], Tensor] | None = None,
) -> BiasStrength:
    """Computes the multiple of a direction that a rule subtracts from a gradient.

    Args:
        gradient: ``g``, of any shape.
        direction: ``d``, of the same shape.
        alpha: Strength; below 0 it moves descent away from the direction.
        mode: ``absolute``: ``f = alpha``. ``gradnorm``: ``f = alpha |g| / |d|``. ``adaptive_cosine``: ``f = alpha
            (1 + c) / 2 |g| / |d|`` with ``c`` the cosine of ``g`` and ``d``, clamped to [-1, 1].
        total: Adds up a tensor of three sums over the pieces of a weight that lies on several devices; None where the
            whole weight is given.

    Source:
        DRIFT: Directional Reasoning Injection for Fine-Tuning MLLMs (2025), with the authors' code
        (confirmed-in-code). We differ where gradient or direction is zero: then nothing is subtracted in any mode.
    """
    gradient, direction = gradient.float(), direction.float()
    sums = torch.stack([(gradient * direction).sum(), gradient.square().sum(), direction.square().sum()])
    if total is not None:
        sums = total(sums)
    dot, gradient_norm, direction_norm = sums[0], sums[1].sqrt(), sums[2].sqrt()
    # Written so that a gradient which is not a number stays one, as whoever skips such steps expects.
    is_zero = (gradient_norm < SMALLEST_NORM) | (direction_norm < SMALLEST_NORM)
    cosine = (dot / (gradient_norm * direction_norm)).clamp(-1.0, 1.0).masked_fill(is_zero, 0.0)
    if mode == "absolute":
        factor = torch.full_like(dot, alpha)
    else:
        factor = alpha * gradient_norm / direction_norm
        if mode == "adaptive_cosine":
            factor = factor * (1.0 + cosine) / 2.0
    return BiasStrength(factor.masked_fill(is_zero, 0.0), cosine, gradient_norm, direction_norm, (~is_zero).float())


def biased_gradient(
    gradient: Tensor,
    direction: Tensor,
    alpha: float,
    mode: BiasMode = "adaptive_cosine",
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Subtracts from a gradient what ``bias_strength`` says; arguments are the same.

    With ``adaptive_cosine`` and ``alpha`` 1 the component along the direction becomes ``|g| (c - 1) / 2``, never above
    0: a gradient whose descent step leads away from the direction is cancelled along it, one whose step leads straight
    towards it stays as it is.

    Returns:
        The new gradient, float32, in the shape of the old.

    Example:
        >>> biased_gradient(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), alpha=1.0)
        tensor([ 3.0000, -0.5000])
    """
    strength = bias_strength(gradient, direction, alpha, mode, total)
    return gradient.float() - strength.factor * direction.float()


def factor_directions(delta: Tensor, inner: Tensor, outer: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Projects a direction of a weight onto the factors of a low-rank adapter, ``W = W0 + scale outer @ inner``.

    The chain rule for a gradient, applied to the direction: what the factors' gradients would be were the weight's
    gradient ``delta``. Pieces of rows of ``delta`` and ``outer`` give the same rows of the first result, and a part of
    the sum that the second is.

    Args:
        delta: Direction of the weight, shape ``(out, in)``.
        inner: ``A``, shape ``(r, in)``.
        outer: ``B``, shape ``(out, r)``.
        scale: The adapter's.

    Returns:
        Directions of ``outer``, ``scale delta A^T``, and of ``inner``, ``scale B^T delta``.

    Source:
        None: DRIFT's authors leave adapters out (reconstructed).
    """
    return scale * delta @ inner.T, scale * outer.T @ delta
