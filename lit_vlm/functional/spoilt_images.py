"""Spoils pictures, leaving their sizes: a crop blown up, a blur, blanks."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageFilter

GREY = (128, 128, 128)
TRIES = 10


def random_crop_box(
    size: tuple[int, int], share: tuple[float, float], ratio: tuple[float, float], stream: random.Random
) -> tuple[int, int, int, int]:
    """Draws a box within a picture: its share of the area uniformly, its width to height ratio log-uniformly.

    Where ten draws do not fit, the largest centred box of an allowed ratio is taken, as in torchvision's
    ``RandomResizedCrop``.

    Args:
        size: Width and height of the picture in pixels.
        share: Least and greatest share of the area, in (0, 1].
        ratio: Least and greatest ratio of width to height.
        stream: Gives the random numbers.

    Returns:
        Left, top, right and bottom, in pixels, of at least one pixel.
    """
    width, height = size
    for _ in range(TRIES):
        area = width * height * stream.uniform(*share)
        shape = math.exp(stream.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            left, top = stream.randint(0, width - wide), stream.randint(0, height - high)
            return left, top, left + wide, top + high
    shape = min(max(width / height, ratio[0]), ratio[1])
    wide = max(1, min(width, round(height * shape)))
    high = max(1, min(height, round(width / shape)))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def blown_up(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Cuts a box out and resizes it to the size of the whole picture, bilinearly."""
    return picture.crop(box).resize(picture.size, Image.Resampling.BILINEAR)


def blurred(picture: Image.Image, radius: float) -> Image.Image:
    """Blurs a picture by a Gaussian.

    Args:
        picture: The picture.
        radius: Standard deviation as a share of the shorter side.
    """
    return picture.filter(ImageFilter.GaussianBlur(radius * min(picture.size)))


def blank(picture: Image.Image) -> Image.Image:
    """Returns mid grey of the same size."""
    return Image.new("RGB", picture.size, GREY)


def patches_hidden(picture: Image.Image, share: float, cells: int, stream: random.Random) -> Image.Image:
    """Paints some cells of a grid grey.

    Args:
        picture: The picture.
        share: Of the cells that are hidden, rounded up.
        cells: Of the grid along each side.
        stream: Chooses them.
    """
    hidden = picture.convert("RGB").copy()
    width, height = picture.size
    for cell in stream.sample(range(cells * cells), math.ceil(share * cells * cells)):
        row, column = divmod(cell, cells)
        left, right = column * width // cells, (column + 1) * width // cells
        top, bottom = row * height // cells, (row + 1) * height // cells
        hidden.paste(GREY, (left, top, right, bottom))
    return hidden
