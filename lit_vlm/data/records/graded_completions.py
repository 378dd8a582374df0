"""Reads several completions of one prompt with their grades, in the layouts in which they are published."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from lit_vlm.data.records.json_text import kind_of
from lit_vlm.data.records.structured_values import is_empty, structure
from lit_vlm.data.records.turns import plain_text
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, assistant_message

EMPTY_COMPLETION = "an empty completion among others (left out)"
NO_GRADE = "a grade that is no number, as N/A (left out)"

_TEXTS = ("response", "text", "completion", "content", "answer", "output")
_GRADES = ("scores", "annotations", "ratings")
# Grades that stand beside the text of a completion instead of in an object of their own.
_BESIDE = ("helpfulness", "correctness", "coherence", "complexity", "verbosity", "correct", "score", "reward")
_RATINGS = ("Rating", "rating", "score", "value")
_NO_NUMBER = ("", "n/a", "na", "none", "null", "-")


def read_candidates(completions: Any) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Reads completions and what they were graded with.

    A list of objects, and an object of lists as Arrow keeps one. The text of each is its ``response`` or ``text``; its
    grades are numbers by name in ``scores``, ``annotations`` or ``ratings`` (each a number, or an object with a
    ``Rating``), or beside the text. Names are written in small letters with underscores, right and wrong as 1 and 0.

    Args:
        completions: What the record holds.

    Returns:
        The completions that have a text, and the names of the mends.

    Raises:
        UserError: It is no list of completions, none has a text, or a grade is neither a number nor left open.
    """
    repairs: dict[str, None] = {}
    candidates = []
    for number, completion in enumerate(_listed(completions), start=1):
        if isinstance(completion, str) or completion is None:
            completion = {"text": completion}
        if not isinstance(completion, Mapping):
            raise UserError(f"completion {number} must be a text or an object, it is a {kind_of(completion)}")
        text = next((completion[key] for key in _TEXTS if not is_empty(completion.get(key))), None)
        if text is None:
            if not any(key in completion for key in _TEXTS):
                raise UserError(
                    f"completion {number} has no text; it holds {sorted(completion)}, and one of {', '.join(_TEXTS)} "
                    "is wanted"
                )
            repairs[EMPTY_COMPLETION] = None
            continue
        scores = _scores(completion, number, repairs)
        model = completion.get("model")
        candidates.append(
            Candidate((assistant_message(plain_text(text)),), scores, "" if is_empty(model) else str(model))
        )
    if not candidates:
        raise UserError("none of its completions has a text; write them, or remove the record")
    return tuple(candidates), tuple(repairs)


def _listed(completions: Any) -> list[Any]:
    completions = structure(completions)
    if isinstance(completions, Mapping):
        texts = next((completions[key] for key in _TEXTS if isinstance(completions.get(key), list)), None)
        if texts is None:
            raise UserError(
                f"its completions are an object with {sorted(completions)}; a list of them is wanted, or an object of "
                "lists with one called response or text"
            )
        uneven = [
            name for name, column in completions.items() if isinstance(column, list) and len(column) != len(texts)
        ]
        if uneven:
            raise UserError(
                f"its completions have {len(texts)} texts and {len(completions[uneven[0]])} {uneven[0]}; they must be "
                "as many"
            )
        return [_item(completions, index) for index in range(len(texts))]
    if not isinstance(completions, (list, tuple)):
        raise UserError(f"its completions must be a list, they are a {kind_of(completions)}")
    return [item if isinstance(item, str) else structure(item) for item in completions]


def _item(columns: Any, index: int) -> Any:
    """Takes one row out of an object of lists, however deep the lists lie."""
    if isinstance(columns, Mapping):
        return {name: _item(column, index) for name, column in columns.items()}
    return columns[index] if isinstance(columns, list) and index < len(columns) else None


def _scores(completion: Mapping[str, Any], number: int, repairs: dict[str, None]) -> dict[str, float]:
    grades = next((structure(completion[key]) for key in _GRADES if not is_empty(completion.get(key))), None)
    if grades is None:
        grades = {name: completion[name] for name in _BESIDE if name in completion}
    if not isinstance(grades, Mapping):
        grades = {"score": grades}
    scores = {}
    for name, grade in grades.items():
        value = _rating(grade)
        if value is None:
            continue  # Arrow gives all objects all keys
        read = _number(value)
        if read is None:
            raise UserError(f"completion {number} has the {name} {str(value)[:40]!r}; give a number, or N/A for none")
        if math.isnan(read):
            repairs[NO_GRADE] = None
        else:
            scores[_name(name)] = read
    return scores


def _rating(grade: Any) -> Any:
    grade = structure(grade)
    if isinstance(grade, Mapping):
        return next((grade[key] for key in _RATINGS if grade.get(key) is not None), None)
    return grade


def _number(value: Any) -> float | None:
    """The number that a value stands for; not-a-number where it says that there is none, None where it says nothing."""
    if isinstance(value, str) and value.strip().casefold() in _NO_NUMBER:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) or math.isnan(number) else None


def _name(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip().casefold())
