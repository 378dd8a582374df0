"""Finds the type of a written answer and brings its value into the form that verifiers read."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from lit_vlm.data.records.structured_values import is_empty, structure
from lit_vlm.data.records.turns import plain_text
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, AnswerType, CoordinateSpace
from lit_vlm.parsing.answer_text import peel
from lit_vlm.parsing.choices import parse_choice, parse_choices
from lit_vlm.parsing.ground_truth import (
    true_box,
    true_boxes,
    true_items,
    true_letter,
    true_letters,
    true_point,
    true_roles,
    true_span,
    true_yes_or_no,
)
from lit_vlm.parsing.plain_numbers import parse_number
from lit_vlm.parsing.tagged_answers import extract_answer

LONGEST_ANSWER = 200
"""Characters of a text that is still an answer to compare with; a longer one is only a completion."""

_LEAD = re.compile(r"(?:the )?(?:final )?answer(?: is)?:? +(?=\S)", re.IGNORECASE)
_OPTION_A = re.compile(r"^\s*\(?A[).:]\s", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z])[).:]?")
# LaTeX whose backslash began an escape in badly written JSON: \b, \f, \n, \r, \t before the rest of a known command.
_BROKEN_ESCAPE = re.compile(r"[\x08\x0c]|\t(?:heta|ext|imes|an\b|o\b)|\n(?:eq\b|u\b|abla)|\r(?:ho\b|ight)")

_CHECKS = {
    "choice": true_letter,
    "multi_choice": true_letters,
    "yesno": true_yes_or_no,
    "list": true_items,
    "steps": true_items,
    "boxes": true_boxes,
    "point_in_box": true_box,
    "point": true_point,
    "span": true_span,
    "assignment": true_roles,
}


def has_broken_escapes(text: str) -> bool:
    r"""Tells whether a text holds control characters that LaTeX commands become in badly escaped JSON.

    Example:
        >>> has_broken_escapes("\frac{1}{2}"), has_broken_escapes("a\tb")
        (True, False)
    """
    return _BROKEN_ESCAPE.search(text) is not None


def read_options(value: Any) -> tuple[str, ...]:
    """Reads the texts of choices, without letters, from a list, a list as text, or an object by letter.

    Raises:
        UserError: It is none of these, or has a single option or more than 26.
    """
    value = structure(value)
    if is_empty(value):
        return ()
    if isinstance(value, Mapping):
        value = [value[letter] for letter in sorted(value) if not is_empty(value[letter])]
    if isinstance(value, str) and ";" in value:
        value = [part for part in value.split(";") if part.strip()]
    if not isinstance(value, (list, tuple)) or not 1 < len(value) <= 26:
        raise UserError(f"the options must be a list of 2 to 26 texts, they are {str(value)[:60]!r}")
    return tuple(_without_letter(plain_text(option).strip(), index) for index, option in enumerate(value))


def read_answer(
    value: Any,
    *,
    question: str = "",
    options: tuple[str, ...] = (),
    answer_type: AnswerType | None = None,
    coordinates: CoordinateSpace | None = None,
) -> Answer | None:
    """Makes an answer of what a record holds.

    Without ``answer_type`` the type is told from the value: a choice where there are options (in the record, or
    lettered in the question), yes or no, a number, boxes, or a short text.

    Args:
        value: The answer as it stands in the record.
        question: Text of the question, in which options may be lettered.
        options: Texts of the choices without letters.
        answer_type: Type of all answers of the data set, where the user says so.
        coordinates: Space of boxes and points, where the user says so.

    Returns:
        The answer; None where there is none, or a text too long to compare with.

    Raises:
        UserError: The value is not of its type, or boxes come without ``coordinates``.
    """
    value = structure(value)
    if is_empty(value):
        return None
    if isinstance(value, Mapping) and value.get("type") in get_args(AnswerType):
        return _checked(_from_object(value, options, coordinates))
    if isinstance(value, str):
        value = _unwrapped(value)
    if answer_type is not None:
        return _checked(_of_type(answer_type, value, options, coordinates))
    return _checked(_of_value(value, question, options, coordinates))


def _of_value(
    value: Any, question: str, options: tuple[str, ...], coordinates: CoordinateSpace | None
) -> Answer | None:
    if options:
        return _choice(value, options)
    if isinstance(value, bool):
        return Answer("yesno", "yes" if value else "no")
    if isinstance(value, (int, float)):
        return Answer("number", str(value))
    if isinstance(value, str):
        return _of_text(value, question)
    if isinstance(value, (list, tuple)):
        if _is_numbers(value, 4) or (value and all(_is_numbers(item, 4) for item in value)):
            return Answer("boxes", _boxes(value), coords=_known(coordinates))
        if all(isinstance(item, (str, int, float)) for item in value):
            # Several accepted strings for one answer, as ChartQA and verl write them.
            first, *others = (_unwrapped(plain_text(item)) for item in value)
            answer = _of_text(first, question)
            if answer is None or not others:
                return answer
            return Answer("text", first, accept=tuple(others))
    raise UserError(f"the type of the answer {str(value)[:80]!r} cannot be told; set data.answer_type")


def _of_text(text: str, question: str) -> Answer | None:
    if text.casefold().rstrip(".") in ("yes", "no"):
        return Answer("yesno", text.casefold().rstrip("."))
    letter = _LETTER.fullmatch(text)
    if letter and _OPTION_A.search(question):
        return Answer("choice", letter[1])
    if parse_number(text) is not None:
        return Answer("number", text)
    return Answer("text", text) if len(text) <= LONGEST_ANSWER and "\n" not in text else None


def _of_type(
    answer_type: AnswerType, value: Any, options: tuple[str, ...], coordinates: CoordinateSpace | None
) -> Answer:
    match answer_type:
        case "choice" if options:
            return _choice(value, options)
        case "multi_choice":
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            letters = parse_choices(text, options)
            return Answer("multi_choice", sorted(letters or ()) or value, options)
        case "boxes":
            return Answer("boxes", _boxes(value), coords=_known(coordinates))
        case "point" | "point_in_box":
            return Answer(answer_type, tuple(value) if isinstance(value, list) else value, coords=_known(coordinates))
        case "span":
            return Answer("span", tuple(value) if isinstance(value, list) else value)
        case "list" | "steps" if isinstance(value, (list, tuple)):
            return Answer(answer_type, [plain_text(item) for item in value])
        case "yesno":
            known = {"true": "yes", "1": "yes", "false": "no", "0": "no"}
            word = plain_text(value).strip().casefold().rstrip(".")
            return Answer("yesno", known.get(word, word))
        case "assignment":
            return Answer("assignment", value)
        case "number" if parse_number(plain_text(value)) is None:
            raise UserError(f"the answer {str(value)[:80]!r} is no number, though data.answer_type says so")
        case _:
            if isinstance(value, (list, tuple)) and value:
                first, *others = map(plain_text, value)
                return Answer(answer_type, first, options, accept=tuple(others))
            return Answer(answer_type, plain_text(value), options)


def _choice(value: Any, options: tuple[str, ...]) -> Answer:
    """Reads a letter, an option's text, or an index from 0, in this order."""
    if isinstance(value, (list, tuple)):
        letters = sorted({str(_choice(item, options).value) for item in value})
        return Answer("choice", letters[0], options) if len(letters) == 1 else Answer("multi_choice", letters, options)
    letter = parse_choice(str(value), options)
    if letter is None and str(value).strip().isdecimal():
        index = int(str(value).strip())
        letter = string.ascii_uppercase[index] if index < len(options) else None
    if letter is None or string.ascii_uppercase.index(letter) >= len(options):
        raise UserError(
            f"the answer {str(value)[:80]!r} is none of the {len(options)} options, no letter up to "
            f"{string.ascii_uppercase[len(options) - 1]} and no index from 0 to {len(options) - 1}"
        )
    return Answer("choice", letter, options)


def _from_object(value: Mapping[str, Any], options: tuple[str, ...], coordinates: CoordinateSpace | None) -> Answer:
    known = {name: value[name] for name in ("tolerance", "grader") if not is_empty(value.get(name))}
    accept = value.get("accept")
    coords = value.get("coords") or coordinates
    if coords is not None and coords not in get_args(CoordinateSpace):
        raise UserError(f"coords is {coords!r}; choose one of {list(get_args(CoordinateSpace))}")
    return Answer(
        value["type"],
        structure(value.get("value")),
        tuple(map(plain_text, value.get("options") or options)),
        accept=tuple(map(plain_text, accept if isinstance(accept, (list, tuple)) else [])),
        coords=coords,
        **known,
    )


def _checked(answer: Answer | None) -> Answer | None:
    if answer is not None and answer.type in _CHECKS:
        _CHECKS[answer.type](answer)
    return answer


def _unwrapped(text: str) -> str:
    r"""Takes an answer out of its tags, ``\boxed{}``, or "The answer is …"."""
    tagged = extract_answer(text)
    text = peel(text if tagged is None else tagged)
    return peel(_LEAD.sub("", text, count=1)) if _LEAD.match(text) else text


def _without_letter(option: str, index: int) -> str:
    label = re.match(rf"\(?{string.ascii_uppercase[index]}[).:]\s+(?=\S)", option)
    return option[label.end() :] if label else option


def _is_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == count
        and all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in value)
    )


def _boxes(value: Any) -> list[tuple[float, ...]]:
    boxes: Sequence[Any] = [value] if _is_numbers(value, 4) else value
    if not isinstance(boxes, (list, tuple)) or not all(_is_numbers(box, 4) for box in boxes):
        raise UserError(f"the answer {str(value)[:80]!r} is no list of boxes [x1, y1, x2, y2]")
    return [tuple(map(float, box)) for box in boxes]


def _known(coordinates: CoordinateSpace | None) -> CoordinateSpace:
    if coordinates is None:
        raise UserError(
            "the answer is boxes or points, and nothing says what their numbers mean; set data.coordinates to pixel, "
            "norm1 (0 to 1) or norm1000 (0 to 1000)"
        )
    return coordinates
