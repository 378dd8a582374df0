"""Boxes, points and spans in text. What is not exactly one of them reads as None, never as an error."""

import math
import re

from lit_vlm.functional.boxes import Box
from lit_vlm.parsing.answer_text import peel
from lit_vlm.parsing.plain_numbers import unify_signs

_NUMBER = r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?"
_COORDINATE = re.compile(_NUMBER)
_INNERMOST_GROUP = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_SECONDS = r" ?(?:s|sec|seconds)?\.?"
_SPAN = re.compile(rf"[(\[]? ?({_NUMBER}){_SECONDS} ?(?:,|-|to) ?({_NUMBER}){_SECONDS} ?[)\]]?")


def parse_boxes(text: str) -> list[Box] | None:
    """Reads boxes ``(x1, y1, x2, y2)``, in round or square brackets, nested or not; one box may stand bare.

    Returns:
        The boxes in order of appearance, repeated ones too; None where there is none, or where any group of numbers is
        no box with ``x1 < x2`` and ``y1 < y2``.

    Example:
        >>> parse_boxes('[{"bbox_2d": [0, 0, 2, 1.5], "label": "cup"}]')
        [(0.0, 0.0, 2.0, 1.5)]
    """
    boxes: list[Box] = []
    for group in _number_groups(text):
        if group is None or len(group) != 4 or group[0] >= group[2] or group[1] >= group[3]:
            return None
        boxes.append((group[0], group[1], group[2], group[3]))
    return boxes or None


def parse_point(text: str) -> tuple[float, float] | None:
    """Reads one point ``(x, y)``, in brackets or bare; None where there is none or more than one.

    Example:
        >>> parse_point("(3, 4)"), parse_point("(3, 4) (5, 6)")
        ((3.0, 4.0), None)
    """
    groups = _number_groups(text)
    if len(groups) != 1 or groups[0] is None or len(groups[0]) != 2:
        return None
    return groups[0][0], groups[0][1]


def parse_span(text: str) -> tuple[float, float] | None:
    """Reads one span of time in seconds: ``[3, 7.5]``, ``3s to 7.5s`` or ``3 - 7.5``.

    None where there is anything else, or the start is not before the end.

    Example:
        >>> parse_span("3s to 7.5s")
        (3.0, 7.5)
    """
    match = _SPAN.fullmatch(" ".join(unify_signs(peel(text)).casefold().split()))
    if match is None:
        return None
    start, end = float(match[1]), float(match[2])
    return (start, end) if start < end and math.isfinite(end - start) else None


def _number_groups(text: str) -> list[tuple[float, ...] | None]:
    """Lists the numbers of each innermost pair of brackets with a digit; None for one with other things as well.

    A text without brackets is one group.
    """
    text = unify_signs(peel(text))
    groups = _INNERMOST_GROUP.findall(text) if any(bracket in text for bracket in "()[]") else [text]
    return [parse_coordinates(group) for group in groups if any(digit in group for digit in "0123456789")]


def parse_coordinates(group: str) -> tuple[float, ...] | None:
    """Reads finite numbers between commas or white space; None where anything else stands among them.

    Example:
        >>> parse_coordinates("1, 2.5"), parse_coordinates("1, two")
        ((1.0, 2.5), None)
    """
    words = group.replace(",", " ").split()
    if not all(_COORDINATE.fullmatch(word) for word in words):
        return None
    numbers = tuple(float(word) for word in words)
    return numbers if all(math.isfinite(number) for number in numbers) else None
