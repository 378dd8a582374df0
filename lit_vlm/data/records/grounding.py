"""Fills ``<ref-object>`` and ``<bbox>`` of the ms-swift convention, and makes an answer of the boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_vlm.data.records.structured_values import is_empty, structure
from lit_vlm.data.records.turns import Turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, CoordinateSpace
from lit_vlm.parsing.ground_truth import true_boxes, written_numbers

_MARK = re.compile(r"<(ref-object|bbox)>")
_SPACES: dict[str, CoordinateSpace] = {"real": "pixel", "norm1": "norm1", "norm1000": "norm1000"}


def fill_objects(turns: Sequence[Turn], objects: Any) -> tuple[list[Turn], Answer | None]:
    """Writes names and boxes in place of their marks, in order, and collects the boxes.

    Args:
        turns: The conversation.
        objects: ``{ref: [names], bbox: [[x1, y1, x2, y2] or [x, y], …], bbox_type: real | norm1}``; a box whose
            corners are swapped is turned round. ``real`` means pixels of the original image, and is the default.

    Returns:
        The turns with text in place of the marks, and the boxes as an answer; None where there are points or nothing.

    Raises:
        UserError: There are more marks than objects, a box has no area, or the kind of coordinates is unknown.
    """
    objects = structure(objects)
    if is_empty(objects):
        return list(turns), None
    if not isinstance(objects, Mapping):
        raise UserError(f"objects must be {{ref: […], bbox: […]}}, not {str(objects)[:60]!r}")
    kind = objects.get("bbox_type") or "real"
    if kind not in _SPACES:
        raise UserError(f"objects.bbox_type is {kind!r}; known are {', '.join(_SPACES)}")
    names = iter([str(name) for name in structure(objects.get("ref")) or []])
    coordinates = [_sorted_corners(box) for box in structure(objects.get("bbox")) or []]
    boxes = iter(coordinates)
    filled = [replace(turn, parts=tuple(_filled(part, names, boxes) for part in turn.parts)) for turn in turns]
    if not coordinates or any(len(box) != 4 for box in coordinates):
        return filled, None
    answer = Answer("boxes", [tuple(map(float, box)) for box in coordinates], coords=_SPACES[kind])
    true_boxes(answer)
    return filled, answer


def _filled(part: Any, names: Iterator[str], boxes: Iterator[Sequence[float]]) -> Any:
    if not isinstance(part, str):
        return part

    def fill(mark: re.Match[str]) -> str:
        if mark[1] == "ref-object":
            name = next(names, None)
            if name is None:
                raise UserError("there are more <ref-object> marks than names in objects.ref")
            return name
        box = next(boxes, None)
        if box is None:
            raise UserError("there are more <bbox> marks than boxes in objects.bbox")
        return f"[{written_numbers(box)}]"

    return _MARK.sub(fill, part)


def _sorted_corners(box: Any) -> list[float]:
    numeric = isinstance(box, (list, tuple)) and all(isinstance(number, (int, float)) for number in box)
    if not numeric or len(box) not in (2, 4):
        raise UserError(f"objects.bbox holds {box!r}; give [x1, y1, x2, y2] or [x, y]")
    if len(box) == 2:
        return list(box)
    left, top, right, bottom = box
    return [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
