"""Spans of time in text, in seconds or by the clock. What is not exactly one span reads as None."""

import math
import re

from lit_vlm.parsing.answer_text import peel
from lit_vlm.parsing.plain_numbers import unify_signs

_CLOCK = r"(?:[0-9]{1,3}:)?[0-9]{1,3}:[0-9]{1,2}(?:\.[0-9]{1,9})?"
_SECONDS = r"[0-9]{1,9}(?:\.[0-9]{0,9})?"
_TIME = rf"({_CLOCK}|{_SECONDS}) ?(?:s|sec|secs|seconds?)?\.?"
_SPAN = re.compile(rf"(?:from )?[(\[]? ?{_TIME} ?(?:,|-|to|and) ?{_TIME} ?[)\]]?")


def parse_time_span(text: str) -> tuple[float, float] | None:
    """Reads a start and an end: seconds, ``mm:ss`` or ``hh:mm:ss``, between a comma, a dash or "to".

    Returns:
        Both in seconds; None where there is anything else, or the start is not before the end.

    Example:
        >>> parse_time_span("[1:05, 75.5]"), parse_time_span("0:01:00 to 0:02:00"), parse_time_span("9 - 5")
        ((65.0, 75.5), (60.0, 120.0), None)
    """
    match = _SPAN.fullmatch(" ".join(unify_signs(peel(text)).casefold().split()))
    if match is None:
        return None
    start, end = _in_seconds(match[1]), _in_seconds(match[2])
    return (start, end) if start < end else None


def _in_seconds(text: str) -> float:
    return math.fsum(float(part) * 60**place for place, part in enumerate(reversed(text.split(":"))))
