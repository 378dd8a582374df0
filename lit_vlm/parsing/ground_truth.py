"""Reads the true value of an ``Answer`` in the form its type promises, or says what is wrong with the data."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from lit_vlm.functional.boxes import Box
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer
from lit_vlm.parsing.choices import parse_choice, parse_choices

DEFAULT_OVERLAP = 0.5
"""Intersection over union from which a box or a span counts as found, where the answer names no tolerance."""


def true_texts(answer: Answer) -> list[str]:
    """Lists the value and the other accepted strings."""
    return [str(answer.value), *answer.accept]


def true_yes_or_no(answer: Answer) -> str:
    """Reads ``yes`` or ``no``."""
    value = str(answer.value).strip().casefold()
    if value not in ("yes", "no"):
        raise _unreadable(answer, "'yes' or 'no'")
    return value


def true_letter(answer: Answer) -> str:
    """Reads the letter of the right choice."""
    letter = parse_choice(str(answer.value), answer.options)
    if letter is None or (answer.options and letter not in _letters_of(answer)):
        raise _unreadable(answer, f"one of the letters {_letters_of(answer) or 'A to Z'}")
    return letter


def true_letters(answer: Answer) -> frozenset[str]:
    """Reads the letters of the right choices, from a list or from a text."""
    text = ", ".join(map(str, answer.value)) if isinstance(answer.value, (list, tuple)) else str(answer.value)
    letters = parse_choices(text, answer.options)
    if letters is None or (answer.options and not letters <= set(_letters_of(answer))):
        raise _unreadable(answer, f"a list of the letters {_letters_of(answer) or 'A to Z'}")
    return letters


def true_items(answer: Answer) -> list[str]:
    """Reads the items of a list or the steps."""
    if not isinstance(answer.value, (list, tuple)):
        raise _unreadable(answer, "a list of strings")
    return [str(item) for item in answer.value]


def true_roles(answer: Answer) -> dict[str, str]:
    """Reads the role of each name."""
    if not isinstance(answer.value, dict) or not answer.value:
        raise _unreadable(answer, "a role for each name, as a dict")
    return {str(name): str(role) for name, role in answer.value.items()}


def true_boxes(answer: Answer) -> list[Box]:
    """Reads one or more boxes."""
    if not isinstance(answer.value, (list, tuple)) or not answer.value:
        raise _unreadable(answer, "a list of boxes (x1, y1, x2, y2)")
    return [_box(answer, value) for value in answer.value]


def true_box(answer: Answer) -> Box:
    """Reads one box."""
    return _box(answer, answer.value)


def true_point(answer: Answer) -> tuple[float, float]:
    """Reads a point."""
    x, y = _numbers(answer, answer.value, 2, "a point (x, y)")
    return x, y


def true_span(answer: Answer) -> tuple[float, float]:
    """Reads the start and the end of a span, in seconds."""
    start, end = _numbers(answer, answer.value, 2, "a span (start, end)")
    if start >= end:
        raise _unreadable(answer, "a span (start, end) whose start is before its end")
    return start, end


def overlap_needed(answer: Answer) -> float:
    """Reads the intersection over union that is needed, in (0, 1]."""
    overlap = DEFAULT_OVERLAP if answer.tolerance is None else answer.tolerance
    if not 0 < overlap <= 1:
        raise _wrong_tolerance(answer, "the intersection over union needed, above 0 and at most 1")
    return overlap


def distance_allowed(answer: Answer) -> float:
    """Reads the largest distance of a point, in the unit of its coordinates; no default fits all units."""
    if answer.tolerance is None or not 0 <= answer.tolerance < math.inf:
        raise _wrong_tolerance(answer, "the largest distance that counts as right, in the unit of the coordinates")
    return answer.tolerance


def relative_tolerance(answer: Answer) -> Fraction:
    """Reads the relative tolerance of a number, 0 where none is given; exact, so that 0.3 lets 130 pass for 100."""
    tolerance = 0.0 if answer.tolerance is None else answer.tolerance
    if not 0 <= tolerance < math.inf:
        raise _wrong_tolerance(answer, "the relative difference that still counts as right, 0 or more")
    return Fraction(str(tolerance))


def written_numbers(numbers: Iterable[float]) -> str:
    """Writes coordinates between commas, whole numbers without a decimal point, others so that they read back exactly.

    Example:
        >>> written_numbers((1.0, 2.5))
        '1, 2.5'
    """
    return ", ".join(str(int(number)) if float(number).is_integer() else repr(float(number)) for number in numbers)


def _letters_of(answer: Answer) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(answer.options)]


def _box(answer: Answer, value: Any) -> Box:
    wanted = "boxes (x1, y1, x2, y2) with x1 < x2 and y1 < y2"
    left, top, right, bottom = _numbers(answer, value, 4, wanted)
    if left >= right or top >= bottom:
        raise _unreadable(answer, wanted)
    return left, top, right, bottom


def _numbers(answer: Answer, value: Any, count: int, wanted: str) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or len(value) != count:
        raise _unreadable(answer, wanted)
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in value):
        raise _unreadable(answer, wanted)
    return tuple(float(number) for number in value)


def _unreadable(answer: Answer, wanted: str) -> UserError:
    return UserError(
        f"the true value of an answer of type {answer.type!r} is {answer.value!r}; wanted {wanted}. "
        "Mend it where the data set is read"
    )


def _wrong_tolerance(answer: Answer, wanted: str) -> UserError:
    return UserError(f"the tolerance of an answer of type {answer.type!r} is {answer.tolerance}; give {wanted}")
