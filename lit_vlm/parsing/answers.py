"""Verdicts: does a completion's answer agree with the ground truth?

One small function per grader, in a table by answer type. The reading of the model's text is left to ``answer_places``,
``answer_text``, ``choices``, ``boxes`` and ``assignments``, that of the true value to ``ground_truth``. Text that
cannot be read is a wrong answer, a ground truth that cannot be read is a ``UserError``.
"""

import math
from collections.abc import Callable
from fractions import Fraction

from lit_vlm.functional.boxes import interval_iou, matched_boxes
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Verdict
from lit_vlm.parsing.answer_places import find_answer
from lit_vlm.parsing.answer_text import comparable_items, comparable_text, parse_list, peel, render_list, words_only
from lit_vlm.parsing.assignments import parse_assignment
from lit_vlm.parsing.boxes import parse_boxes, parse_point, parse_span
from lit_vlm.parsing.choices import parse_choice, parse_choices
from lit_vlm.parsing.ground_truth import (
    distance_allowed,
    overlap_needed,
    relative_tolerance,
    true_box,
    true_boxes,
    true_items,
    true_letter,
    true_letters,
    true_point,
    true_roles,
    true_span,
    true_texts,
    true_yes_or_no,
    written_numbers,
)
from lit_vlm.parsing.math_equivalence import math_equal
from lit_vlm.parsing.plain_numbers import parse_number
from lit_vlm.parsing.tagged_answers import is_well_formed


def check_answer(completion: str, answer: Answer) -> Verdict:
    """Compares the answer of a completion, read from where ``answer.place`` says, with the ground truth.

    Raises:
        UserError: The answer's type or grader is unknown or needs a judge, or the ground truth cannot be read.

    Example:
        >>> check_answer("<think>2 + 3</think><answer>5.0</answer>", Answer("number", "5"))
        Verdict(correct=True, parsed='5.0', formatted=True)
    """
    agrees = _grader_of(answer)
    parsed = find_answer(completion, answer.place)
    return Verdict(
        correct=parsed is not None and agrees(parsed, answer),
        parsed=parsed,
        formatted=is_well_formed(completion) if answer.place == "tags" else parsed is not None,
    )


def answers_agree(text: str, answer: Answer) -> bool:
    """Compares an answer's text, already without tags, with the ground truth.

    Raises:
        UserError: As ``check_answer``.

    Example:
        >>> answers_agree("(A)", Answer("choice", "A")), answers_agree("A or B", Answer("choice", "A"))
        (True, False)
    """
    return _grader_of(answer)(text, answer)


def render_answer(answer: Answer) -> str:
    """Writes the ground truth as a model would; ``answers_agree`` finds it right.

    Raises:
        UserError: As ``check_answer``.

    Example:
        >>> render_answer(Answer("point", (3, 4.5)))
        '(3, 4.5)'
    """
    _grader_of(answer)
    match answer.type:
        case "choice":
            return true_letter(answer)
        case "multi_choice":
            return ", ".join(sorted(true_letters(answer)))
        case "list" | "steps":
            return render_list(true_items(answer))
        case "boxes":
            return ", ".join(f"[{written_numbers(box)}]" for box in true_boxes(answer))
        case "point":
            return f"({written_numbers(true_point(answer))})"
        case "point_in_box":
            left, top, right, bottom = true_box(answer)
            return f"({written_numbers(((left + right) / 2, (top + bottom) / 2))})"
        case "span":
            return f"[{written_numbers(true_span(answer))}]"
        case "assignment":
            return ", ".join(f"{name}: {role}" for name, role in true_roles(answer).items())
        case _:
            return str(answer.value)


def _number_agrees(text: str, answer: Answer) -> bool:
    return _number_agrees_exactly(text, answer) or any(math_equal(text, gold) for gold in true_texts(answer))


def _number_agrees_exactly(text: str, answer: Answer) -> bool:
    tolerance = relative_tolerance(answer)
    return any(_equal_numbers(text, gold, tolerance) for gold in true_texts(answer))


def _equal_numbers(text: str, gold: str, tolerance: Fraction) -> bool:
    """Compares plain numbers as fractions; a text that is none equals only itself."""
    given, wanted = parse_number(peel(text)), parse_number(peel(gold))
    if given is None or wanted is None:
        return peel(text) == peel(gold)
    return abs(given - wanted) <= tolerance * abs(wanted)


def _choice_agrees(text: str, answer: Answer) -> bool:
    return parse_choice(text, answer.options) == true_letter(answer)


def _choices_agree(text: str, answer: Answer) -> bool:
    return parse_choices(text, answer.options) == true_letters(answer)


def _yes_or_no_agrees(text: str, answer: Answer) -> bool:
    wanted = true_yes_or_no(answer)
    words = words_only(text).split()
    return words[:1] == [wanted] and {"yes": "no", "no": "yes"}[wanted] not in words


def _text_agrees(text: str, answer: Answer) -> bool:
    return comparable_text(text) in {comparable_text(gold) for gold in true_texts(answer)}


def _text_agrees_as_math(text: str, answer: Answer) -> bool:
    return _text_agrees(text, answer) or any(math_equal(text, gold) for gold in true_texts(answer))


def _text_contains(text: str, answer: Answer) -> bool:
    return any(f" {words_only(gold)} " in f" {words_only(text)} " for gold in true_texts(answer))


def _words_agree(text: str, answer: Answer) -> bool:
    return words_only(text) in {words_only(gold) for gold in true_texts(answer)}


def _list_agrees(text: str, answer: Answer) -> bool:
    return comparable_items(parse_list(text)) == comparable_items(true_items(answer))


def _set_agrees(text: str, answer: Answer) -> bool:
    return set(comparable_items(parse_list(text))) == set(comparable_items(true_items(answer)))


def _boxes_agree(text: str, answer: Answer) -> bool:
    wanted, threshold, given = true_boxes(answer), overlap_needed(answer), parse_boxes(text)
    # The count first: it bounds the work, and boxes everywhere must not pay.
    if given is None or len(given) != len(wanted):
        return False
    return matched_boxes(wanted, given, threshold) == len(wanted)


def _point_agrees(text: str, answer: Answer) -> bool:
    wanted, distance, given = true_point(answer), distance_allowed(answer), parse_point(text)
    return given is not None and math.dist(given, wanted) <= distance


def _point_lies_in_box(text: str, answer: Answer) -> bool:
    (left, top, right, bottom), given = true_box(answer), parse_point(text)
    return given is not None and left <= given[0] <= right and top <= given[1] <= bottom


def _span_agrees(text: str, answer: Answer) -> bool:
    wanted, threshold, given = true_span(answer), overlap_needed(answer), parse_span(text)
    return given is not None and interval_iou(given, wanted) >= threshold


def _assignment_agrees(text: str, answer: Answer) -> bool:
    wanted = true_roles(answer)
    return parse_assignment(text, list(wanted), wanted.values()) == wanted


_Grader = Callable[[str, Answer], bool]
# The first grader of a type is its default.
_GRADERS: dict[str, dict[str, _Grader]] = {
    "choice": {"letter": _choice_agrees},
    "multi_choice": {"set": _choices_agree},
    "number": {"math": _number_agrees, "exact": _number_agrees_exactly},
    "text": {"exact": _text_agrees, "math": _text_agrees_as_math, "contains": _text_contains},
    "yesno": {"first_word": _yes_or_no_agrees},
    "list": {"ordered": _list_agrees, "set": _set_agrees},
    "boxes": {"matching": _boxes_agree},
    "point": {"distance": _point_agrees},
    "point_in_box": {"containment": _point_lies_in_box},
    "span": {"overlap": _span_agrees},
    "text_span": {"exact": _words_agree},
    "assignment": {"all": _assignment_agrees},
    "steps": {"ordered": _list_agrees, "set": _set_agrees},
}
_JUDGED = ("route", "open")


def _grader_of(answer: Answer) -> _Grader:
    if answer.type in _JUDGED:
        raise UserError(
            f"answers of type {answer.type!r} have no rule that decides them; they need a judge or a grader of their "
            "own. Leave such samples out, or use a reward or an evaluation that brings one"
        )
    graders = _GRADERS.get(answer.type)
    if graders is None:
        raise UserError(f"unknown answer type {answer.type!r}; there are {', '.join((*_GRADERS, *_JUDGED))}")
    name = next(iter(graders)) if answer.grader is None else answer.grader
    if name not in graders:
        raise UserError(f"unknown grader {name!r} for answers of type {answer.type!r}; there are {', '.join(graders)}")
    return graders[name]
