"""Who gets whose picture, where a fixed set of samples is to be shown each other's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def picture_cycles(pictures: Sequence[Hashable], sizes: Sequence[Hashable]) -> list[tuple[int, ...]]:
    """Cuts samples into small circles, in each of which everybody gets the picture of the next.

    Nobody gets the picture that they have, under whatever index. Samples are paired with the next of the same size that
    has another picture; those for whom there is none, with the next of any size; one that is left over then joins a
    circle, of its own size where possible, or is left out.

    Args:
        pictures: What each sample shows; equal values are the same picture.
        sizes: Of the pictures; equal values need no resizing.

    Returns:
        Circles of two or more indices, each index in one circle at most; the first of a circle follows its last.

    Example:
        >>> picture_cycles(["a", "a", "b", "c"], [8, 8, 8, 8])
        [(0, 2), (1, 3)]
    """
    cycles: list[tuple[int, ...]] = []
    waiting = list(range(len(pictures)))
    for same_size in (True, False):
        left = []
        while waiting:
            one = waiting.pop(0)
            partner = next(
                (
                    other
                    for other in waiting
                    if pictures[other] != pictures[one] and (not same_size or sizes[other] == sizes[one])
                ),
                None,
            )
            if partner is None:
                left.append(one)
            else:
                waiting.remove(partner)
                cycles.append((one, partner))
        waiting = left
    for one in waiting:
        _join(cycles, one, pictures, sizes)
    return cycles


def _join(cycles: list[tuple[int, ...]], one: int, pictures: Sequence[Hashable], sizes: Sequence[Hashable]) -> None:
    """Puts a sample at the end of a circle whose ends both show something else."""
    fitting = [
        place for place, cycle in enumerate(cycles) if pictures[one] not in (pictures[cycle[0]], pictures[cycle[-1]])
    ]
    if fitting:
        place = next((place for place in fitting if sizes[cycles[place][0]] == sizes[one]), fitting[0])
        cycles[place] = (*cycles[place], one)
