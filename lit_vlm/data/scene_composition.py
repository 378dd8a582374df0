"""Composes scenes of coloured shapes: what stands in them at each difficulty, and in which cells."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lit_vlm.data.scene_drawing import COLOURS, GRID, SHAPES, SIZES, Clutter, Description

Layout = tuple[tuple[int, Description], ...]
"""Cell and looks of each object of a scene, in reading order."""


@dataclass(frozen=True)
class Level:
    """What a difficulty allows."""

    objects: tuple[int, int]
    """Fewest and most objects of a scene; a question that needs two has at least two."""
    colours: tuple[str, ...]
    """Colours that occur."""
    shapes: tuple[str, ...]
    """Shapes that occur."""
    lookalikes: float
    """Share of the other objects that differ from one asked about in a single attribute."""
    named_by_size: float
    """Share of the names that say the size too."""
    clutter: Clutter
    """What makes the picture harder to see."""


_FEW, _ALL = tuple(COLOURS)[:4], tuple(COLOURS)
LEVELS = {
    1: Level((1, 3), _FEW, SHAPES[:3], 0.0, 0.0, Clutter()),
    2: Level((2, 5), _FEW, SHAPES[:3], 0.1, 0.0, Clutter(noise=6)),
    3: Level((3, 7), _ALL, SHAPES, 0.2, 0.5, Clutter(overlap=0.1, lines=1, noise=12)),
    4: Level((4, 8), _ALL, SHAPES, 0.35, 0.5, Clutter(overlap=0.2, lines=2, noise=20, shade=12)),
    5: Level((5, 9), _ALL, SHAPES, 0.5, 0.5, Clutter(overlap=0.3, lines=4, noise=30, shade=20)),
}


def fill_in(level: Level, kind: Description, stream: random.Random) -> Description:
    """Chooses the attributes that a description leaves open."""
    return Description(
        kind.size or stream.choice(SIZES),
        kind.colour or stream.choice(level.colours),
        kind.shape or stream.choice(level.shapes),
    )


def vary(level: Level, looks: Description, attributes: Sequence[str], stream: random.Random) -> Description:
    """Gives one of the named attributes (``size``, ``colour``, ``shape``) another value that the level allows."""
    attribute = stream.choice(attributes)
    values = {"size": SIZES, "colour": level.colours, "shape": level.shapes}[attribute]
    others = [value for value in values if value != getattr(looks, attribute)]
    return looks._replace(**{attribute: stream.choice(others)})


def choose_name(level: Level, stream: random.Random) -> Description:
    """Chooses a colour and a shape, at higher levels sometimes a size too."""
    size = stream.choice(SIZES) if stream.random() < level.named_by_size else ""
    return Description(size, stream.choice(level.colours), stream.choice(level.shapes))


def compose(
    level: Level, wanted: Sequence[Description], absent: Sequence[Description], stream: random.Random
) -> list[Description]:
    """Adds objects to the wanted ones, up to a number that the level allows.

    Args:
        level: Difficulty.
        wanted: Looks of the objects that the scene must have.
        absent: Kinds that no added object may match; each must leave some looks of the level possible.
        stream: Source of the choices.

    Returns:
        Looks of all objects, the wanted ones first.
    """
    fewest, most = level.objects
    scene = list(wanted)
    count = stream.randint(max(fewest, len(wanted)), most)
    while len(scene) < count:
        if wanted and stream.random() < level.lookalikes:
            looks = vary(level, stream.choice(wanted), ("size", "colour", "shape"), stream)
        else:
            looks = fill_in(level, Description(), stream)
        if not any(kind.matches(looks) for kind in absent):
            scene.append(looks)
    return scene


def spread(scene: Sequence[Description], stream: random.Random) -> Layout:
    """Gives each object a cell of its own; the result is in reading order."""
    return tuple(sorted(zip(stream.sample(range(GRID * GRID), len(scene)), scene, strict=True)))
