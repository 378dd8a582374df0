"""The adapter of low rank that comes closest to a difference of weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.interfaces.errors import UserError

OVERSAMPLING, POWER_STEPS = 16, 4
"""Directions and iterations beside the rank of the approximate decomposition."""


@dataclass(frozen=True)
class LowRankPair:
    """``outer @ inner`` stands for a difference."""

    inner: Tensor
    """``A``, shape ``(r, in)``, float32."""
    outer: Tensor
    """``B``, shape ``(out, r)``, float32."""
    relative_error: float
    """``‖delta − B A‖ / ‖delta‖``, Frobenius; 0 for a difference of zeros."""


def low_rank_pair(delta: Tensor, rank: int, approximate: bool = False) -> LowRankPair:
    """Computes the best factors of a rank, by singular values.

    With ``delta = U S Vᵀ``: ``B = U_r √S_r`` and ``A = √S_r V_rᵀ``, so that neither factor is larger than the other.
    Where a difference has fewer directions than the rank, what is left of the factors is 0.

    Args:
        delta: The difference, shape ``(out, in)``.
        rank: Rows of ``A`` and columns of ``B``, at least 1.
        approximate: Whether singular values may come from a randomised method, which is faster for large weights and
            exact only where few directions matter.

    Raises:
        UserError: The rank is below 1, the difference is no matrix, or it holds NaN or infinity.

    Source:
        Eckart and Young, The approximation of one matrix by another of lower rank (1936); factors as in PEFT's LoRA.
        The randomised method is Halko et al., Finding structure with randomness (2011), algorithm 5.1.
    """
    if rank < 1:
        raise UserError(f"the rank of an adapter is at least 1, not {rank}")
    if delta.dim() != 2:
        raise UserError(f"an adapter of low rank stands for a matrix, not for a weight of shape {tuple(delta.shape)}")
    delta = delta.float()
    if not delta.isfinite().all():
        raise UserError("the difference holds NaN or infinity, so that no adapter can stand for it")
    most = min(delta.shape)
    kept = min(rank, most)
    if approximate and kept + OVERSAMPLING < most:
        left, sizes, right = torch.svd_lowrank(delta, kept + OVERSAMPLING, niter=POWER_STEPS)
        right = right.T
    else:
        left, sizes, right = torch.linalg.svd(delta, full_matrices=False)
    roots = sizes[:kept].sqrt()
    outer = delta.new_zeros(delta.shape[0], rank)
    inner = delta.new_zeros(rank, delta.shape[1])
    outer[:, :kept] = left[:, :kept] * roots
    inner[:kept] = roots[:, None] * right[:kept]
    size = float(torch.linalg.vector_norm(delta))
    error = float(torch.linalg.vector_norm(delta - outer @ inner)) / size if size else 0.0
    return LowRankPair(inner, outer, error)
