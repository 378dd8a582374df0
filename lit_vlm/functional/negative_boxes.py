"""Boxes that look at the wrong place: the second guess of a model, or a random box of about the same size."""

import random

from lit_vlm.functional.boxes import Box, box_iou

NOMINAL_CHANGE = 0.3
"""Share by which a side of a random box may differ, before the first widening."""
WIDENING = 0.1
"""Added to the share at tries 0, 20, 40, …"""
WIDENED_EVERY = 20


def negative_box(
    box: Box,
    guess: Box | None,
    size: tuple[int, int],
    stream: random.Random,
    *,
    largest_overlap: float = 0.05,
    tries: int = 100,
) -> Box | None:
    """Keeps a second guess that lies elsewhere, and replaces any other by a random box that does not touch ``box``.

    Args:
        box: The box to keep away from, inside the image.
        guess: The second guess, inside the image; None where there is none.
        size: Width and height of the image, in the unit of the boxes.
        stream: Source of the random box; not used where the guess is kept.
        largest_overlap: IoU up to which the guess counts as lying elsewhere, in [0, 1].
        tries: Random boxes that are drawn at most.

    Returns:
        A box inside the image; None where the guess overlaps and all tries did.

    Example:
        >>> negative_box((0, 0, 8, 8), (32, 32, 40, 40), (64, 64), random.Random(0))
        (32, 32, 40, 40)

    Source:
        Zhang et al., VisRL: Intention-Driven Visual Perception via Reinforced Reasoning (2025),
        ``data_gen/generate.py`` (confirmed-in-code).
    """
    if guess is not None and box_iou(box, guess) <= largest_overlap:
        return guess
    return random_box_beside(box, size, stream, tries)


def random_box_beside(box: Box, size: tuple[int, int], stream: random.Random, tries: int = 100) -> Box | None:
    """Draws boxes of about the size of ``box`` until one shares no area with it.

    Sides are drawn within 40 % of those of ``box`` in the first 20 tries, and within 10 % more after each 20.

    Returns:
        A box inside the image; None where all tries overlapped or were larger than the image.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    for attempt in range(tries):
        change = largest_change(attempt)
        sides = [side * (1 + stream.uniform(-change, change)) for side in (width, height)]
        corner = [stream.random() * (whole - side) for whole, side in zip(size, sides, strict=True)]
        if min(*sides, *corner) < 0 or min(sides) == 0:
            continue  # too wide for the image, or without an area
        drawn = (corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1])
        if box_iou(box, drawn) == 0:
            return drawn
    return None


def largest_change(attempt: int) -> float:
    """Tells how far the sides may differ at a try, as a share of those of the box.

    Example:
        >>> [round(largest_change(attempt), 3) for attempt in (0, 19, 20, 99)]
        [0.4, 0.4, 0.5, 0.8]
    """
    return NOMINAL_CHANGE + WIDENING * (attempt // WIDENED_EVERY + 1)
