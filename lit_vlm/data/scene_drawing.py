"""Places coloured shapes on a grid and draws them: the pictures of the shape scenes.

The picture is divided into 4 x 4 cells. The centre of an object always lies in its cell, so that rows, columns and
the reading order (rows top to bottom, each left to right) can be told from the picture alone.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw

GRID = 4
SIZES = ("small", "large")
COLOURS = {
    "red": (225, 35, 40),
    "green": (40, 175, 60),
    "blue": (50, 95, 240),
    "yellow": (240, 225, 50),
    "purple": (165, 60, 205),
    "orange": (245, 135, 25),
}
SHAPES = ("circle", "square", "triangle", "star")
LARGEST_HIDDEN_SHARE = 0.4
SUPERSAMPLING = 4

Box = tuple[int, int, int, int]
Point = tuple[float, float]


class Description(NamedTuple):
    """Looks of an object, or of a kind of objects where some attributes are left open (the empty string)."""

    size: str = ""
    colour: str = ""
    shape: str = ""

    @property
    def phrase(self) -> str:
        """The given attributes in words, e.g. ``large red circle``; an open shape is an ``object``."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    def matches(self, other: "Description") -> bool:
        """Tells whether ``other`` has all attributes given here."""
        return all(mine in ("", theirs) for mine, theirs in zip(self, other, strict=True))


@dataclass(frozen=True)
class SceneObject:
    """One object in its place."""

    looks: Description
    """Size, colour and shape, all given."""
    cell: int
    """Index of its cell in reading order, from 0."""
    box: Box
    """Left, top, right and bottom edges in pixels; the last two are exclusive. Hidden parts count."""

    @property
    def row(self) -> int:
        """Row of the cell, from 1."""
        return self.cell // GRID + 1

    @property
    def column(self) -> int:
        """Column of the cell, from 1."""
        return self.cell % GRID + 1

    @property
    def centre(self) -> tuple[int, int]:
        """Centre of the box in pixels; whole, since sides are even."""
        left, top, right, bottom = self.box
        return (left + right) // 2, (top + bottom) // 2


@dataclass(frozen=True)
class Clutter:
    """What makes a picture harder to see."""

    overlap: float = 0.0
    """How far an object may reach out of its cell, in cells."""
    lines: int = 0
    """Grey lines behind the objects."""
    noise: int = 0
    """Largest change of a channel of a pixel, in 0..255 steps."""
    shade: int = 0
    """Largest change of a channel of an object's colour, in 0..255 steps."""


def side_of(size: str, image_size: int) -> int:
    """Gives the side of an object's box in pixels: an even number, about 1/2 or 7/8 of a cell."""
    return 2 * int(image_size / GRID * (0.4375 if size == "large" else 0.25))


def place_objects(
    layout: Sequence[tuple[int, Description]], image_size: int, overlap: float, stream: random.Random
) -> tuple[SceneObject, ...]:
    """Puts objects near the middle of their cells.

    Args:
        layout: Cell index and looks of each object, in reading order; at most one a cell. Later ones are drawn on top.
        image_size: Side of the picture in pixels.
        overlap: How far an object may reach out of its cell, in cells.
        stream: Source of the offsets.

    Returns:
        The objects in the order given. None is hidden by more than ``LARGEST_HIDDEN_SHARE``, and the boxes of objects
        of one colour do not overlap: the two would look like one.
    """
    # The last round puts every object in the middle of its cell, where nothing overlaps: the search always ends.
    for share in (1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0):
        objects = tuple(_place(cell, looks, image_size, overlap, share, stream) for cell, looks in layout)
        if overlap == 0 or _is_readable(objects):
            break
    return objects


def draw_scene(objects: Sequence[SceneObject], image_size: int, clutter: Clutter, stream: random.Random) -> Image.Image:
    """Draws objects in the order given on a dark ground, anti-aliased.

    Args:
        objects: What to draw; later ones cover earlier ones.
        image_size: Side of the picture in pixels.
        clutter: Lines, noise and shades to add.
        stream: Source of the ground's tone and of the clutter.

    Returns:
        An RGB image.
    """
    tone = stream.randint(12, 44)
    side = image_size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), (tone, tone, tone))
    pen = ImageDraw.Draw(canvas)
    for _ in range(clutter.lines):
        ends = [stream.randrange(side) for _ in range(4)]
        grey = stream.randint(70, 130)
        pen.line(ends, fill=(grey, grey, grey), width=SUPERSAMPLING)
    for item in objects:
        _draw_object(pen, item, _shaded(COLOURS[item.looks.colour], clutter.shade, stream))
    image = canvas.reduce(SUPERSAMPLING)
    return _with_noise(image, clutter.noise, stream) if clutter.noise else image


def draw_mask(item: SceneObject, image_size: int) -> Image.Image:
    """Draws one object alone: a greyscale image with the share of each pixel that the object covers, times 255."""
    side = image_size * SUPERSAMPLING
    canvas = Image.new("L", (side, side))
    _draw_object(ImageDraw.Draw(canvas), item, 255)
    return canvas.reduce(SUPERSAMPLING)


def _star() -> tuple[Point, ...]:
    """Corners of a five-pointed star that touches all sides of the unit square."""
    corners = [
        (math.sin(turn * math.pi / 5) * radius, -math.cos(turn * math.pi / 5) * radius)
        for turn, radius in enumerate([1.0, 0.45] * 5)
    ]
    left, right = min(x for x, _ in corners), max(x for x, _ in corners)
    top, bottom = min(y for _, y in corners), max(y for _, y in corners)
    return tuple(((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in corners)


_OUTLINES: dict[str, tuple[Point, ...]] = {
    "square": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "triangle": ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "star": _star(),
}


def _area(corners: Sequence[Point]) -> float:
    turned = (*corners[1:], corners[0])
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(corners, turned, strict=True))) / 2


# Share of its box that a shape fills.
_AREAS = {"circle": math.pi / 4} | {shape: _area(corners) for shape, corners in _OUTLINES.items()}


def _place(
    cell: int, looks: Description, image_size: int, overlap: float, share: float, stream: random.Random
) -> SceneObject:
    cell_side = image_size / GRID
    side = side_of(looks.size, image_size)
    # Beyond 0.3 of a cell, neighbouring rows and columns could no longer be told apart.
    reach = share * min((cell_side - side) / 2 + overlap * cell_side, 0.3 * cell_side)
    corner = []
    for position in (cell % GRID, cell // GRID):
        start = (position + 0.5) * cell_side - side / 2 + stream.uniform(-reach, reach)
        corner.append(min(max(round(start), 0), image_size - side))
    left, top = corner
    return SceneObject(looks, cell, (left, top, left + side, top + side))


def _is_readable(objects: Sequence[SceneObject]) -> bool:
    for index, item in enumerate(objects):
        left, top, right, bottom = item.box
        hidden = 0
        for other in objects[index + 1 :]:
            width = min(right, other.box[2]) - max(left, other.box[0])
            height = min(bottom, other.box[3]) - max(top, other.box[1])
            if width > 0 and height > 0:
                if item.looks.colour == other.looks.colour:
                    return False
                hidden += width * height
        # Boxes overlap at least as much as the shapes in them, so this errs on the visible side.
        area = _AREAS[item.looks.shape] * (right - left) * (bottom - top)
        if hidden > LARGEST_HIDDEN_SHARE * area:
            return False
    return True


def _draw_object(pen: ImageDraw.ImageDraw, item: SceneObject, fill: int | tuple[int, int, int]) -> None:
    left, top, right, bottom = (edge * SUPERSAMPLING for edge in item.box)
    # Pillow paints the end points too; one fine pixel less keeps the shape inside its box.
    width, height = right - left - 1, bottom - top - 1
    if item.looks.shape == "circle":
        pen.ellipse((left, top, left + width, top + height), fill=fill)
    else:
        pen.polygon([(left + x * width, top + y * height) for x, y in _OUTLINES[item.looks.shape]], fill=fill)


def _shaded(colour: tuple[int, int, int], shade: int, stream: random.Random) -> tuple[int, int, int]:
    if shade == 0:
        return colour
    red, green, blue = (min(max(channel + stream.randint(-shade, shade), 0), 255) for channel in colour)
    return red, green, blue


def _with_noise(image: Image.Image, noise: int, stream: random.Random) -> Image.Image:
    # The stream's bytes, not Pillow's effect_noise: that one cannot be seeded.
    grain = Image.frombytes("RGB", image.size, stream.randbytes(3 * image.width * image.height))
    scaled = grain.point([round(value * 2 * noise / 255) for value in range(256)] * 3)
    return ImageChops.add(image, scaled, scale=1.0, offset=-noise)
