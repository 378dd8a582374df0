"""Detected objects in text: boxes with labels and confidences. A text that is cut off keeps its complete objects."""

import json
import re
from dataclasses import dataclass
from typing import Any

from lit_vlm.functional.boxes import Box
from lit_vlm.parsing.boxes import parse_coordinates
from lit_vlm.parsing.plain_numbers import unify_signs

_OBJECT = re.compile(r"\{[^{}]*\}")
_GROUP = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_BOX_KEYS = ("bbox_2d", "bbox", "position", "box", "box_2d")
_LABEL_KEYS = ("label", "class", "category", "name")


@dataclass(frozen=True)
class Detection:
    """One object that a model claims to see."""

    box: Box | None
    """None where it has no box with ``x1 < x2`` and ``y1 < y2``."""
    label: str = ""
    """Its class, case-folded."""
    confidence: float = 1.0
    """In [0, 1]; 1 where the text says nothing."""


def parse_detections(text: str) -> list[Detection] | None:
    """Reads objects such as ``{"bbox_2d": [0, 0, 2, 1], "label": "cup", "confidence": 0.9}``, or bare boxes.

    Args:
        text: A list of objects as JSON (single quotes pass as well), or brackets with four numbers each.

    Returns:
        The objects in order, repeated and malformed ones too; none for an empty list; None where the text holds neither
        an object nor a box nor an empty list.

    Example:
        >>> parse_detections('[{"bbox_2d": [0, 0, 2, 1], "label": "Cup"}, {"bbox_2d": [0,')
        [Detection(box=(0.0, 0.0, 2.0, 1.0), label='cup', confidence=1.0)]
    """
    found = [_detection(_read_object(match.group())) for match in _OBJECT.finditer(text)]
    if not found:
        groups = (parse_coordinates(unify_signs(match[1])) for match in _GROUP.finditer(text))
        found = [Detection(_box(group)) for group in groups if group is not None and len(group) == 4]
    return found if found or "".join(text.split()) == "[]" else None


def parse_first_box(text: str) -> Box | None:
    """Reads the box of the first object with one, else the first four numbers in brackets; None where that is no box.

    Example:
        >>> parse_first_box("The cup (red) is at [1, 2, 3, 4]."), parse_first_box("[3, 2, 1, 4]")
        ((1.0, 2.0, 3.0, 4.0), None)
    """
    detections = parse_detections(text)
    return detections[0].box if detections else None


def _read_object(text: str) -> dict[str, Any]:
    for spelling in (text, text.replace("'", '"')):
        try:
            read = json.loads(spelling)
        except (ValueError, RecursionError):
            continue
        return {str(key).casefold(): value for key, value in read.items()}
    return {}


def _detection(fields: dict[str, Any]) -> Detection:
    numbers = next((fields[key] for key in _BOX_KEYS if key in fields), None)
    label = next((fields[key] for key in _LABEL_KEYS if key in fields), "")
    # As text, so that true, "7" and 1e999 are judged by the one rule for coordinates.
    confidence = parse_coordinates(str(fields.get("confidence", 1.0)))
    box = parse_coordinates(" ".join(map(str, numbers))) if isinstance(numbers, list) else None
    return Detection(
        box=_box(box),
        label=str(label).strip().casefold(),
        confidence=min(max(confidence[0], 0.0), 1.0) if confidence else 0.0,
    )


def _box(numbers: tuple[float, ...] | None) -> Box | None:
    if numbers is None or len(numbers) != 4 or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3]
