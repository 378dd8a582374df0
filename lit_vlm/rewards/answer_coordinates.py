"""Brings coordinates that a model wrote into the space of the true ones."""

from __future__ import annotations

from collections.abc import Sequence

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, CoordinateSpace
from lit_vlm.rewards.completion_reward import gold_answer


def in_gold_space(numbers: Sequence[float], completion: Completion, space: CoordinateSpace | None) -> list[float]:
    """Rescales coordinates ``x, y, x, y, …`` of a sample's first image.

    Args:
        numbers: What the model wrote.
        completion: Where it wrote it; its sample's answer names the space of the true coordinates.
        space: What the model's coordinates count in; None for the space of the true ones.

    Raises:
        UserError: The spaces differ, and the true one or the size of the image is not known.
    """
    gold = gold_answer(completion).coords
    if space is None or space == gold:
        return list(numbers)
    if gold is None:
        raise UserError(
            f"sample {completion.sample.id!r} does not say in which space its coordinates are; set coords where the "
            "data set is read"
        )
    given, wanted = (_extent(completion, one) for one in (space, gold))
    return [number / given[place % 2] * wanted[place % 2] for place, number in enumerate(numbers)]


def _extent(completion: Completion, space: CoordinateSpace) -> tuple[float, float]:
    """Returns the largest x and y of the first image."""
    if space != "pixel":
        return (1.0, 1.0) if space == "norm1" else (1000.0, 1000.0)
    image = completion.sample.images[0] if completion.sample.images else None
    size = None if image is None else image.size or (image.pil.size if image.pil is not None else None)
    if size is None:
        raise UserError(
            f"sample {completion.sample.id!r}: the size of its image is not known, which pixel coordinates need; "
            "set MediaRef.size where the data set is read"
        )
    return float(size[0]), float(size[1])
