"""The largest numbers of a tensor by magnitude, an exact count of them, without sorting.

The bits of a float32 without its sign, read as an integer, are in the order of the magnitudes. A histogram of their
upper halves, then one of the lower halves in the bin where the count is reached, gives the threshold in two passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.functional.task_vectors import Pieces, spans

_WITHOUT_SIGN = 0x7FFFFFFF
_HALF = 1 << 16


@dataclass(frozen=True)
class MagnitudeCut:
    """Parts the largest numbers of a flat tensor from the others."""

    threshold: int
    """Bits of the least magnitude that is kept."""
    ties_before: int
    """Of numbers that have just this magnitude, those before this index are kept."""

    def keeps(self, numbers: Tensor, start: int) -> Tensor:
        """Tells which numbers of a piece that begins at index ``start`` are kept, bool."""
        bits = _magnitude_bits(numbers)
        stop = start + numbers.numel()
        if self.ties_before >= stop:
            return bits >= self.threshold
        kept = bits > self.threshold
        if self.ties_before > start:
            inside = self.ties_before - start
            kept[:inside] |= bits[:inside] == self.threshold
        return kept


def magnitude_cut(numbers: Tensor, count: int) -> MagnitudeCut:
    """Finds where the ``count`` numbers of largest magnitude end; of equal ones the first are kept.

    Args:
        numbers: Float32, flat.
        count: How many to keep, at most all.

    Example:
        >>> numbers = torch.tensor([1.0, -3.0, 2.0, -2.0])
        >>> magnitude_cut(numbers, 2).keeps(numbers, 0)
        tensor([False,  True,  True, False])
    """
    if count <= 0:
        return MagnitudeCut(_WITHOUT_SIGN, ties_before=0)
    upper = torch.zeros(_HALF, dtype=torch.int64, device=numbers.device)
    for _, bits in _bits_in_pieces(numbers):
        upper += torch.bincount(bits >> 16, minlength=_HALF)
    upper_half, missing = _bin_of_rank(upper, count)
    lower = torch.zeros(_HALF, dtype=torch.int64, device=numbers.device)
    for _, bits in _bits_in_pieces(numbers):
        lower += torch.bincount(bits[bits >> 16 == upper_half] & (_HALF - 1), minlength=_HALF)
    lower_half, missing = _bin_of_rank(lower, missing)
    threshold = upper_half << 16 | lower_half
    ties_before = numbers.numel()
    if missing < int(lower[lower_half]):
        ties_before = _end_of_ties(numbers, threshold, missing)
    return MagnitudeCut(threshold, ties_before)


def kept_largest(delta: Tensor, count: int, *, left_out: int = 0) -> Pieces:
    """Gives a tensor in pieces with all but its largest numbers by magnitude set to 0.

    Args:
        delta: Float32.
        count: How many to keep.
        left_out: How many still larger ones to set to 0 too.

    Example:
        >>> kept_largest(torch.tensor([1.0, -0.5, 0.1, 0.3]), 2, left_out=1)(0, 4)
        tensor([ 0.0000, -0.5000,  0.0000,  0.3000])
    """
    flat = delta.reshape(-1)
    least = magnitude_cut(flat, left_out + count)
    most = magnitude_cut(flat, left_out) if left_out else None

    def piece(start: int, stop: int) -> Tensor:
        numbers = flat[start:stop]
        kept = least.keeps(numbers, start)
        if most is not None:
            kept &= ~most.keeps(numbers, start)
        return numbers * kept

    return piece


def _magnitude_bits(numbers: Tensor) -> Tensor:
    return numbers.view(torch.int32) & _WITHOUT_SIGN


def _bits_in_pieces(numbers: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start, stop in spans(numbers.numel()):
        yield start, _magnitude_bits(numbers[start:stop])


def _bin_of_rank(histogram: Tensor, rank: int) -> tuple[int, int]:
    """Finds the bin, counted from the top, that holds the number of a rank from 1, and the rank inside the bin."""
    from_top = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, rank))
    above = int(from_top[place - 1]) if place else 0
    return len(histogram) - 1 - place, rank - above


def _end_of_ties(numbers: Tensor, threshold: int, wanted: int) -> int:
    """Returns the index after the ``wanted``-th number that has just the threshold's magnitude."""
    for start, bits in _bits_in_pieces(numbers):
        ties = (bits == threshold).nonzero().view(-1)
        if len(ties) >= wanted:
            return start + int(ties[wanted - 1]) + 1
        wanted -= len(ties)
    raise AssertionError("the histogram counted ties that are not there")
