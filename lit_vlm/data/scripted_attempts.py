"""Attempts at focus scenes written by rule from the truth, for where no model has made any."""

import random
from collections.abc import Sequence

from lit_vlm.data.scene_drawing import GRID
from lit_vlm.functional.boxes import Box
from lit_vlm.functional.focus_boxes import Size, clipped_box
from lit_vlm.functional.focus_traces import Trace
from lit_vlm.functional.negative_boxes import negative_box
from lit_vlm.interfaces.records import Sample

RIGHT_ANSWERS = 0.8
"""Share of right answers behind a good box; behind a bad one a digit is guessed."""
EMPTY_PLACES = 0.5
"""Share of bad boxes where no shape is; the others are another shape's. Without them two boxes alone could tell which
is good: of two shapes "the left object" is the one with the smaller numbers, whatever the picture shows."""
LARGEST_SHIFT = 2
"""Most pixels by which a good box is off, across and down."""


def scripted_attempts(sample: Sample, attempts: int, stream: random.Random) -> list[Trace]:
    """Writes attempts as a model might: a box near the true one, and one at a wrong place (``negative_box``).

    Args:
        sample: A sample of ``FocusSceneGenerator``.
        attempts: How many.
        stream: Source of all choices.

    Returns:
        Two traces an attempt, the good one first; only that one where no other place is found.
    """
    if sample.answer is None:
        raise ValueError(f"{sample.id} has no answer to write attempts by")
    image = sample.images[0].pil
    truth: Box = tuple(sample.meta.extra["box"])
    others: list[Box] = [tuple(item["box"]) for item in sample.meta.extra["objects"] if tuple(item["box"]) != truth]
    traces = []
    for _ in range(attempts):
        good = _near(truth, image.size, stream)
        right = stream.random() < RIGHT_ANSWERS
        traces.append((write_box(good), f"<answer>{sample.answer.value if right else stream.randrange(10)}</answer>"))
        place = _empty_place([truth, *others], image.size, stream)
        wrong = place if stream.random() < EMPTY_PLACES else stream.choice(others)
        bad = negative_box(good, _near(wrong, image.size, stream), image.size, stream)
        if bad is not None:
            traces.append((write_box(bad), f"<answer>{stream.randrange(10)}</answer>"))
    return traces


def _empty_place(boxes: Sequence[Box], size: Size, stream: random.Random) -> Box:
    """Draws one of the grid's cells without a shape: a box of the first one's size in its middle."""
    across, down = (side / GRID for side in size)
    taken = {(int((box[0] + box[2]) / 2 / across), int((box[1] + box[3]) / 2 / down)) for box in boxes}
    cells = [(column, row) for row in range(GRID) for column in range(GRID) if (column, row) not in taken]
    column, row = stream.choice(cells)
    left, top, right, bottom = boxes[0]
    x, y = (column + 0.5) * across - (right - left) / 2, (row + 0.5) * down - (bottom - top) / 2
    return x, y, x + right - left, y + bottom - top


def _near(box: Box, size: Size, stream: random.Random) -> Box:
    across, down = (stream.randint(-LARGEST_SHIFT, LARGEST_SHIFT) for _ in range(2))
    shifted = (box[0] + across, box[1] + down, box[2] + across, box[3] + down)
    return clipped_box(shifted, size) or box


def write_box(box: Box) -> str:
    """Writes a box in whole pixels, as the assistant's first turn does.

    Example:
        >>> write_box((1.4, 2.6, 30.0, 40.2))
        '<answer>(1, 3, 30, 40)</answer>'
    """
    left, top, right, bottom = (round(edge) for edge in box)
    return f"<answer>{(left, top, right, bottom)}</answer>"
