"""Sums and products of large tensors, piece by piece, so that what lies between stays in the processor's cache.

A tensor may be pruned on the fly: ``Pieces`` gives the numbers of a stretch of it, and no pruned copy is ever whole.

Legend: ``N`` tensors that are put together, ``P`` numbers in a piece.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Literal

import torch
from torch import Tensor

from lit_vlm.functional.batch_statistics import accumulation_dtype

PIECE = 1 << 17
"""Most numbers in a piece: half a mebibyte of float32."""

Pieces = Callable[[int, int], Tensor]
"""``(start, stop)`` -> that stretch of the flattened tensor, to be read only; called with what ``spans`` yields."""

Rescaling = Literal["inverse_density", "l1", "none"]
"""What pruned numbers are multiplied by: one over the share that is kept, which leaves the expectation as it was; what
brings the sum of absolute values back to that before pruning; or nothing."""

_LEAST_NORM = 1e-7
_LEAST_PRODUCT = 1e-30


def spans(count: int) -> Iterator[tuple[int, int]]:
    """Yields the ends of consecutive pieces that cover ``count`` numbers.

    Example:
        >>> list(spans(PIECE + 3)) == [(0, PIECE), (PIECE, PIECE + 3)]
        True
    """
    for start in range(0, count, PIECE):
        yield start, min(start + PIECE, count)


def whole(tensor: Tensor) -> Pieces:
    """Gives a tensor in pieces, as it is."""
    flat = tensor.reshape(-1)
    return lambda start, stop: flat[start:stop]


def scaled(pieces: Pieces, factor: float) -> Pieces:
    """Multiplies what is given in pieces by one factor."""
    return pieces if factor == 1 else lambda start, stop: pieces(start, stop) * factor


def weighted_sum(terms: Sequence[tuple[Pieces, float]], like: Tensor) -> Tensor:
    """Adds up tensors, each times a weight.

    Args:
        terms: ``N`` tensors in pieces with their weights, at least one.
        like: Has the shape, type and device of the sum.

    Example:
        >>> first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
        >>> weighted_sum([(whole(first), 1.0), (whole(second), 0.5)], like=first)
        tensor([2.5000, 1.0000])
    """
    result = torch.empty_like(like, memory_format=torch.contiguous_format)
    flat = result.view(-1)
    for start, stop in spans(flat.numel()):
        (first, weight), *others = terms
        piece = torch.mul(first(start, stop), weight, out=flat[start:stop])
        for other, weight in others:
            piece.add_(other(start, stop), alpha=weight)
    return result


def plus_agreeing(
    base: Tensor, deltas: Sequence[Pieces], weights: Sequence[float], *, scale: float = 1.0, normalize: bool = True
) -> Tensor:
    """Adds to a tensor, number by number, those differences whose sign is that of the weighted sum of all.

    With ``d_i = w_i t_i`` the sign is + where ``sum_i d_i >= 0``, else -; what is added is ``scale`` times the sum of
    the ``d_i`` of that sign, divided by the sum of their ``w_i`` (by 1 where that is 0). A difference of 0 has no sign.

    Args:
        base: What is added to.
        deltas: ``t_i``, ``N`` differences in pieces, at least one.
        weights: ``w_i``.
        scale: Factor of what is added.
        normalize: Whether to divide; otherwise the agreeing differences are summed.

    Example:
        >>> deltas = [whole(torch.tensor([1.0, -0.5])), whole(torch.tensor([0.6, 0.8]))]
        >>> plus_agreeing(torch.zeros(2), deltas, [1.0, 1.0])
        tensor([0.8000, 0.8000])

    Source:
        Yadav et al., TIES-Merging (2023), section 4; for negative weights as mergekit ``generalized_task_arithmetic``
        (confirmed-in-code).
    """
    result = torch.empty_like(base, memory_format=torch.contiguous_format)
    before, after = base.reshape(-1), result.view(-1)
    for start, stop in spans(after.numel()):
        weighted = [delta(start, stop) * weight for delta, weight in zip(deltas, weights, strict=True)]
        sign = elected_sign(weighted)
        change = _agreeing_sum(weighted, weights, sign, normalize)
        torch.add(before[start:stop], change, alpha=scale, out=after[start:stop])
    return result


def elected_sign(deltas: Sequence[Tensor]) -> Tensor:
    """Returns 1 where the sum of tensors is 0 or more and -1 elsewhere, in their type.

    Example:
        >>> elected_sign([torch.tensor([1.0, 0.2, -1.0]), torch.tensor([-1.0, -0.3, 1.5])])
        tensor([ 1., -1.,  1.])
    """
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total.add_(delta)
    return total.ge(0).to(total.dtype).mul_(2).sub_(1)


def rescaling_factor(delta: Tensor, pruned: Pieces, density: float, rescale: Rescaling) -> float:
    """Computes what a pruned difference is to be multiplied by.

    Args:
        delta: The difference before pruning.
        pruned: What is left of it.
        density: Share that was meant to be kept, above 0.
        rescale: Which factor; ``l1`` reads all pieces once more, and is 1 where either sum is below 1e-7.
    """
    if rescale == "none" or density >= 1:
        return 1.0
    if rescale == "inverse_density":
        return 1.0 / density
    flat = delta.reshape(-1)
    before = after = 0.0
    for start, stop in spans(flat.numel()):
        before += float(flat[start:stop].abs().sum())
        after += float(pruned(start, stop).abs().sum())
    return before / after if min(before, after) >= _LEAST_NORM else 1.0


def piece_product(first: Tensor, second: Tensor) -> float:
    """Computes the inner product of two pieces, in their type unless the product leaves what that resolves.

    Args:
        first: Flat, at most ``PIECE`` numbers.
        second: The same shape.
    """
    product = float(torch.dot(first, second))
    # Squares of very large and very small numbers leave the range of float32.
    if _LEAST_PRODUCT < abs(product) < math.inf:
        return product
    return float(torch.dot(first.double(), second.double()))


def inner_products(tensors: Sequence[Tensor]) -> Tensor:
    """Computes the inner products of tensors as flat vectors: of pieces in float32, added up in float64.

    Args:
        tensors: ``N`` of one shape.

    Returns:
        Shape ``(N, N)``, on the CPU.

    Example:
        >>> inner_products([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])])
        tensor([[5., 3.],
                [3., 9.]], dtype=torch.float64)
    """
    flats = [tensor.reshape(-1) for tensor in tensors]
    found = torch.zeros(len(flats), len(flats), dtype=torch.float64)
    for start, stop in spans(flats[0].numel() if flats else 0):
        for row, column in combinations_with_replacement(range(len(flats)), 2):
            found[row, column] += piece_product(flats[row][start:stop], flats[column][start:stop])
    return found.triu() + found.triu(1).T


def inner_product(first: Tensor, second: Tensor, *, per_row: bool = False) -> Tensor:
    """Computes the inner product of two tensors as flat vectors, in float64 where the device has it.

    Args:
        first: Any shape ``(..., C)``.
        second: The same shape.
        per_row: Whether to take each vector along the last dimension for itself.

    Returns:
        Shape ``()``, or ``(R,)`` with one number for each of the ``R`` rows.

    Example:
        >>> inner_product(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2), per_row=True)
        tensor([3., 7.], dtype=torch.float64)
    """
    dtype = accumulation_dtype(first)
    if not per_row:
        flat, other = first.reshape(-1), second.reshape(-1)
        total = torch.zeros((), dtype=dtype, device=first.device)
        for start, stop in spans(flat.numel()):
            total += torch.dot(flat[start:stop].to(dtype), other[start:stop].to(dtype))
        return total
    width = first.shape[-1] if first.ndim else 1
    step = max(1, PIECE // max(1, width))
    rows = zip(first.reshape(-1, width).split(step), second.reshape(-1, width).split(step), strict=True)
    return torch.cat([(block.to(dtype) * other.to(dtype)).sum(-1) for block, other in rows])


def _agreeing_sum(weighted: Sequence[Tensor], weights: Sequence[float], sign: Tensor, normalize: bool) -> Tensor:
    """Sums the differences of the elected sign, and divides by their weights; changes the differences."""
    total = torch.zeros_like(sign)
    divisor = torch.zeros_like(sign)
    for delta, weight in zip(weighted, weights, strict=True):
        towards = delta.mul_(sign)  # positive where it agrees
        if normalize:
            divisor.add_(towards.gt(0), alpha=weight)
        total.add_(towards.relu_())
    total.mul_(sign)
    return total.div_(divisor.masked_fill_(divisor == 0, 1.0)) if normalize else total
