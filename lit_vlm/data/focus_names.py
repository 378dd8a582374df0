"""How a question says which object of a scene it means: by its looks, its cell or the side on which it lies."""

from collections.abc import Callable, Sequence

from lit_vlm.data.scene_drawing import Description, SceneObject

Names = list[tuple[SceneObject, str]]
"""Objects with words that fit them alone, to stand behind "the"."""


def by_looks(objects: Sequence[SceneObject]) -> Names:
    """Names objects by colour and shape, e.g. ``red circle``; no two may look alike."""
    return [(item, Description("", *item.looks[1:]).phrase) for item in objects]


def by_cell(objects: Sequence[SceneObject]) -> Names:
    """Names objects by their place in the grid, e.g. ``object in row 2, column 3``: the words tell the place."""
    return [(item, f"object in row {item.row}, column {item.column}") for item in objects]


def by_side(objects: Sequence[SceneObject]) -> Names:
    """Names objects that lie further to one side than all others, e.g. ``left object``: the picture tells the place.

    An object that does so on two sides is named twice, one between the others not at all.
    """
    names = []
    for side, distance in _SIDES.items():
        furthest = max(distance(item) for item in objects)
        there = [item for item in objects if distance(item) == furthest]
        if len(there) == 1:
            names.append((there[0], f"{side} object"))
    return names


_SIDES: dict[str, Callable[[SceneObject], int]] = {
    "left": lambda item: -item.column,
    "right": lambda item: item.column,
    "top": lambda item: -item.row,
    "bottom": lambda item: item.row,
}
NAMES: dict[str, Callable[[Sequence[SceneObject]], Names]] = {"looks": by_looks, "cell": by_cell, "side": by_side}
"""By task: lists the objects that can be asked about, with their names."""
