"""Misreads scenes of coloured shapes: what somebody might see who looks too quickly."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from lit_vlm.data.scene_composition import Level, fill_in, vary
from lit_vlm.data.scene_drawing import GRID, Description, SceneObject, place_objects

Scene = tuple[SceneObject, ...]


def misread(objects: Sequence[SceneObject], level: Level, image_size: int, stream: random.Random) -> Scene:
    """Changes one thing about a scene: takes an object for another, misplaces, overlooks or imagines one.

    Args:
        objects: What is there, in reading order; may be empty.
        level: Says which colours and shapes there are.
        image_size: Side of the picture in pixels.
        stream: Source of the choices.

    Returns:
        What is seen, in reading order.
    """
    change = stream.choice(_CHANGES) if objects else _imagine
    return tuple(sorted(change(list(objects), level, image_size, stream), key=lambda item: item.cell))


def _mistake(objects: list[SceneObject], level: Level, image_size: int, stream: random.Random) -> list[SceneObject]:
    """Takes one object for another that differs in colour or shape, or in size, with the box that it would have."""
    place = stream.randrange(len(objects))
    item = objects[place]
    looks = vary(level, item.looks, ("size", "colour", "shape"), stream)
    if looks.size == item.looks.size:
        objects[place] = replace(item, looks=looks)
    else:
        objects[place] = _put(item.cell, looks, image_size, stream)
    return objects


def _misplace(objects: list[SceneObject], level: Level, image_size: int, stream: random.Random) -> list[SceneObject]:
    """Sees one object in another cell."""
    place = stream.randrange(len(objects))
    objects[place] = _put(_free_cell(objects, stream), objects[place].looks, image_size, stream)
    return objects


def _overlook(objects: list[SceneObject], level: Level, image_size: int, stream: random.Random) -> list[SceneObject]:
    del objects[stream.randrange(len(objects))]
    return objects


def _imagine(objects: list[SceneObject], level: Level, image_size: int, stream: random.Random) -> list[SceneObject]:
    """Sees one object more, half of the time one like another."""
    is_copy = bool(objects) and stream.random() < 0.5
    looks = stream.choice(objects).looks if is_copy else fill_in(level, Description(), stream)
    return [*objects, _put(_free_cell(objects, stream), looks, image_size, stream)]


_CHANGES: tuple[Callable[[list[SceneObject], Level, int, random.Random], list[SceneObject]], ...] = (
    _mistake,
    _misplace,
    _overlook,
    _imagine,
)


def _free_cell(objects: Sequence[SceneObject], stream: random.Random) -> int:
    taken = {item.cell for item in objects}
    return stream.choice([cell for cell in range(GRID * GRID) if cell not in taken])


def _put(cell: int, looks: Description, image_size: int, stream: random.Random) -> SceneObject:
    (item,) = place_objects([(cell, looks)], image_size, 0.0, stream)
    return item
