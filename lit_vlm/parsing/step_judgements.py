"""What a judge says of each step of a solution: a JSON list with one object a step."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from lit_vlm.interfaces.critiques import StepLabel

ERROR_TYPES = (
    "reasoning",
    "visual interpretation",
    "numerical calculation",
    "symbolic calculation",
    "knowledge",
    "question understanding",
    "no solution provided",
)
"""Kinds of errors that a step may have."""
MOST_CHARACTERS = 200_000
"""Length from which a text is not read."""
MOST_STEPS = 1_000
"""Steps beyond which a list is not read."""
SOLUTION, SOLUTION_END = "<solution>", "</solution>"
"""What surrounds the judge's own solution, where it solves first."""

_LIST = re.compile(r"\[\s*\{")
_NUMBER = re.compile(r"\s*(?:step\s*)?([0-9]{1,6})[.:]?\s*", re.IGNORECASE)
_NUMBER_KEYS = ("step", "step_number", "index")
_LABEL_KEYS = ("correct", "correctness", "label")
_LABELS: dict[Any, bool] = {1: True, 0: False, "1": True, "0": False}  # true and false equal 1 and 0
_NO_TYPE = ("", "none", "null", "n/a", "-", "no error")
_DECODER = json.JSONDecoder()


def read_step_judgements(text: str) -> tuple[StepLabel, ...] | None:
    r"""Reads the last JSON list of step judgements in a text, in time linear in the text.

    Args:
        text: ``[{"step": 1, "correct": 1}, {"step": 2, "correct": 0, "error_type": "reasoning", "explanation": …}]``,
            maybe in a code fence, with words around it and behind ``<solution>…</solution>``, which is not looked into.
            ``correctness`` and ``label`` mean ``correct``; ``step`` may be the number or the step's words.

    Returns:
        One label a step, in order. None where there is no list, where it is cut off or empty, or where anything in it
        is not what it must be: a label other than 0 and 1, an error type that is none of ``ERROR_TYPES`` (the word
        "error" may follow it) or stands at a right step, numbers of steps that are not 1, 2, 3 and so on.

    Example:
        >>> read_step_judgements('So: [{"step": 1, "correct": 0, "error_type": "Knowledge Error"}]')
        (StepLabel(text='', correct=False, error_type='knowledge', explanation=''),)
        >>> read_step_judgements('[{"step": 1, "correct": "maybe"}]') is None
        True

    Source:
        Ai et al., "ProJudge" (2025); form and names reconstructed.
    """
    if len(text) > MOST_CHARACTERS:
        return None
    opened, closed = text.rfind(SOLUTION), text.rfind(SOLUTION_END)
    if opened > closed:
        return None  # the solution did not end, so that nothing is judged yet
    found = _last_list(text, closed + len(SOLUTION_END) if closed >= 0 else 0)
    if found is None or len(found) > MOST_STEPS:
        return None
    labels = tuple(read_step_label(item, number) for number, item in enumerate(found, 1))
    complete = tuple(label for label in labels if label is not None)
    return complete if len(complete) == len(labels) else None


def read_step_label(item: Any, number: int) -> StepLabel | None:
    """Reads what is said of one step; None where it is not what it must be.

    Args:
        item: The JSON object.
        number: Which step it must be about, from 1, where it says so.
    """
    if not isinstance(item, dict):
        return None
    step = next((item[key] for key in _NUMBER_KEYS if item.get(key) is not None), "")
    words = str(step) if isinstance(step, str | int) else None
    numbered = _NUMBER.fullmatch(words) if words is not None else None
    if words is None or (numbered is not None and int(numbered.group(1)) != number):
        return None
    label = next((item[key] for key in _LABEL_KEYS if item.get(key) is not None), None)
    label = label.strip() if isinstance(label, str) else label
    if not isinstance(label, str | int) or label not in _LABELS:
        return None
    kind, explanation = item.get("error_type"), item.get("explanation")
    error_type = read_error_type(kind)
    is_unknown = error_type is None and kind is not None and str(kind).strip().lower() not in _NO_TYPE
    if is_unknown or (_LABELS[label] and error_type is not None) or not isinstance(explanation, str | None):
        return None
    return StepLabel("" if numbered else words.strip(), _LABELS[label], error_type, explanation or "")


def read_error_type(value: Any) -> str | None:
    """Reads the name of an error type in whatever case; None where it is none of ``ERROR_TYPES``.

    Example:
        >>> read_error_type("Visual Interpretation Error"), read_error_type("typo")
        ('visual interpretation', None)
    """
    if not isinstance(value, str):
        return None
    name = " ".join(value.replace("_", " ").lower().split()).removesuffix("s").removesuffix(" error")
    return name if name in ERROR_TYPES else None


def write_step_judgements(steps: Sequence[StepLabel]) -> str:
    """Writes labels as the JSON list that ``read_step_judgements`` reads: right steps by number and label only.

    Example:
        >>> write_step_judgements([StepLabel("i see 2", True), StepLabel("2 + 3 = 6", False, "reasoning", "it is 5")])
        '[{"step": 1, "correct": 1}, {"step": 2, "correct": 0, "error_type": "reasoning", "explanation": "it is 5"}]'
    """
    said: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        said.append({"step": number, "correct": int(step.correct)})
        if not step.correct:
            said[-1]["error_type"] = step.error_type
        if step.explanation:
            said[-1]["explanation"] = step.explanation
    return json.dumps(said, ensure_ascii=False)


def _last_list(text: str, start: int) -> list[Any] | None:
    """Decodes every list of objects once, from left to right; None where one of them is broken or there is none."""
    found: list[Any] | None = None
    while (begin := _LIST.search(text, start)) is not None:
        try:
            found, start = _DECODER.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            return None
    return found
