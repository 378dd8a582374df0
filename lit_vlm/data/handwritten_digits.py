"""Draws scikit-learn's handwritten digits onto images; every scan belongs to one split for good.

The set has 1,797 scans of 8 x 8 pixels by 43 writers (E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten
Digits", UCI 1998), bundled with scikit-learn, so that nothing is downloaded.
"""

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy
from PIL import Image

from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.records import Split

SPLIT_SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


@lru_cache(maxsize=1)
def _scans() -> tuple[numpy.ndarray, numpy.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Grey levels run from 0 (paper) to 16 (ink).
    return (digits.images * (255 / 16)).astype(numpy.uint8), digits.target


@lru_cache(maxsize=3)
def scans_of_split(split: Split) -> tuple[tuple[int, ...], ...]:
    """Lists the scans of a split by digit.

    Args:
        split: Which part; shares within each digit are those of ``SPLIT_SHARES``.

    Returns:
        Ten tuples of scan indices, one per digit; the three splits share no scan.
    """
    _, targets = _scans()
    bounds = list(numpy.cumsum([0.0, *SPLIT_SHARES.values()]))
    position = list(SPLIT_SHARES).index(split)
    by_digit = []
    for digit in range(10):
        indices = sorted(numpy.flatnonzero(targets == digit).tolist(), key=lambda index: stream_seed("scan", index))
        first, last = (round(bounds[position + side] * len(indices)) for side in (0, 1))
        by_digit.append(tuple(indices[first:last]))
    return tuple(by_digit)


def draw_digit(image: Image.Image, scan: int, corner: tuple[int, int], size: int, degrees: float, ink: int) -> None:
    """Pastes a scan onto a greyscale image.

    Args:
        image: Mode ``L``; changed in place.
        scan: Index of the scan.
        corner: Left and top pixel.
        size: Width and height in pixels.
        degrees: Turn, counter-clockwise.
        ink: Grey level of the strokes, 0 to 255.
    """
    images, _ = _scans()
    glyph = Image.fromarray(images[scan]).resize((size, size), Image.Resampling.BICUBIC)
    if degrees:
        glyph = glyph.rotate(degrees, Image.Resampling.BILINEAR)
    image.paste(ink, corner, glyph)


def draw_page(
    cells: Sequence[tuple[int, tuple[int, int], int]], image_size: int, noise: float, stream: random.Random
) -> Image.Image:
    """Draws scans on grainy paper.

    Args:
        cells: Scan, corner and size in pixels of each digit.
        image_size: Side of the square page in pixels.
        noise: Standard deviation of the grain, in grey levels.
        stream: Decides grain, turn, ink and paper.

    Returns:
        An RGB image.
    """
    paper = stream.randint(200, 255)
    page = Image.new("L", (image_size, image_size), paper)
    for scan, corner, size in cells:
        draw_digit(page, scan, corner, size, stream.uniform(-10, 10), stream.randint(0, 70))
    if noise > 0:
        grain = numpy.random.default_rng(stream.getrandbits(64)).normal(0.0, noise, (image_size, image_size))
        page = Image.fromarray(numpy.clip(numpy.asarray(page) + grain, 0, 255).astype(numpy.uint8))
    return page.convert("RGB")
