"""Boxes that say where to look: read from text, clipped to their image, cut out of it."""

from PIL import Image

from lit_vlm.functional.boxes import Box
from lit_vlm.interfaces.records import CoordinateSpace
from lit_vlm.parsing.answer_places import find_answer
from lit_vlm.parsing.boxes import parse_boxes

Size = tuple[int, int]
"""Width and height in pixels."""

LARGEST_ASPECT = 8
"""Most that the longer side of a crop may be of the shorter; a thinner box is stretched to it."""


def read_focus_box(text: str, coords: CoordinateSpace, size: Size) -> Box | None:
    """Reads the one box that a model chose to look at.

    Args:
        text: What it wrote: the box between ``<answer>`` and ``</answer>``, or else alone after any thought.
        coords: What its coordinates count in.
        size: Of the image.

    Returns:
        The box in pixels, clipped to the image; None where there is no box or more than one, where it is inverted, or
        where nothing of it lies in the image.

    Example:
        >>> read_focus_box("<answer>(0.5, 0.5, 1.5, 0.75)</answer>", "norm1", (64, 64))
        (32.0, 32.0, 64.0, 48.0)
    """
    answer = find_answer(text, "tags")
    boxes = parse_boxes(answer if answer is not None else find_answer(text, "whole") or "")
    if boxes is None or len(boxes) != 1:
        return None
    width, height = (1 if coords == "pixel" else side / (1 if coords == "norm1" else 1000) for side in size)
    left, top, right, bottom = boxes[0]
    return clipped_box((left * width, top * height, right * width, bottom * height), size)


def clipped_box(box: Box, size: Size) -> Box | None:
    """Cuts off what of a box lies outside an image; None where no area is left.

    Example:
        >>> clipped_box((-4.0, 8.0, 80.0, 16.0), (64, 64)), clipped_box((70.0, 0.0, 80.0, 8.0), (64, 64))
        ((0.0, 8.0, 64.0, 16.0), None)
    """
    left, right = (min(max(float(edge), 0.0), float(size[0])) for edge in (box[0], box[2]))
    top, bottom = (min(max(float(edge), 0.0), float(size[1])) for edge in (box[1], box[3]))
    return (left, top, right, bottom) if left < right and top < bottom else None


def crop_to_box(image: Image.Image, box: Box, longest_side: int) -> Image.Image:
    """Cuts a box out of an image and enlarges or shrinks it.

    Args:
        image: Any size.
        box: In pixels, inside the image, with an area.
        longest_side: Longer side of the result in pixels; the shorter one keeps the proportion of the box, as far as
            ``LARGEST_ASPECT`` allows.

    Returns:
        The crop, of the image's mode; its edges blend with what lies beside the box.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    scale = longest_side / max(width, height)
    least = max(longest_side // LARGEST_ASPECT, 1)
    sides = max(round(width * scale), least), max(round(height * scale), least)
    return image.resize(sides, Image.Resampling.BICUBIC, box=box)
