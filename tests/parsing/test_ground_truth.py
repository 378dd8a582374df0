import math
from fractions import Fraction

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer
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


def test_true_values_are_read_in_the_forms_data_sets_use():
    assert true_texts(Answer("number", "3.0", accept=("3",))) == ["3.0", "3"]
    assert true_yes_or_no(Answer("yesno", " Yes ")) == "yes"
    assert true_letter(Answer("choice", "(b)", options=("cat", "dog"))) == "B"
    assert true_letter(Answer("choice", "dog", options=("cat", "dog"))) == "B"
    assert true_letters(Answer("multi_choice", ["A", "C"])) == true_letters(Answer("multi_choice", "AC")) == {"A", "C"}
    assert true_items(Answer("steps", ("left", 3))) == ["left", "3"]
    assert true_roles(Answer("assignment", {"Ella": "knight"})) == {"Ella": "knight"}
    assert true_boxes(Answer("boxes", [[0, 0, 1, 2]])) == [(0.0, 0.0, 1.0, 2.0)]
    assert true_box(Answer("point_in_box", (0, 0, 1, 2))) == (0.0, 0.0, 1.0, 2.0)
    assert true_point(Answer("point", [3, 4])) == (3.0, 4.0)
    assert true_span(Answer("span", [3, 4])) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (true_yes_or_no, Answer("yesno", "maybe")),
        (true_letter, Answer("choice", "E", options=("cat", "dog"))),
        (true_letter, Answer("choice", "the dog")),
        (true_letters, Answer("multi_choice", [])),
        (true_letters, Answer("multi_choice", ["A", "E"], options=("cat", "dog"))),
        (true_items, Answer("list", "left, up")),
        (true_roles, Answer("assignment", {})),
        (true_roles, Answer("assignment", "Ella is a knight")),
        (true_boxes, Answer("boxes", [])),
        (true_boxes, Answer("boxes", [0, 0, 1, 1])),
        (true_boxes, Answer("boxes", [(0, 0, 0, 1)])),
        (true_box, Answer("point_in_box", "mask.png")),
        (true_point, Answer("point", (1, 2, 3))),
        (true_point, Answer("point", (1, math.nan))),
        (true_span, Answer("span", (4, 3))),
    ],
)
def test_a_true_value_that_cannot_be_read_is_named(read, answer):
    with pytest.raises(UserError, match=f"the true value of an answer of type '{answer.type}' is .*; wanted "):
        read(answer)


def test_tolerances_are_read_or_have_their_default():
    assert overlap_needed(Answer("boxes", [])) == 0.5
    assert overlap_needed(Answer("span", [], tolerance=0.7)) == 0.7
    assert distance_allowed(Answer("point", (), tolerance=0)) == 0
    assert relative_tolerance(Answer("number", "5")) == 0
    assert relative_tolerance(Answer("number", "5", tolerance=0.3)) == Fraction(3, 10)


@pytest.mark.parametrize(
    ("read", "tolerance"),
    [
        (overlap_needed, 0.0),
        (overlap_needed, 1.5),
        (distance_allowed, None),
        (distance_allowed, -1.0),
        (relative_tolerance, -0.1),
        (relative_tolerance, math.inf),
        (relative_tolerance, math.nan),
    ],
)
def test_a_tolerance_that_makes_no_sense_is_named(read, tolerance):
    with pytest.raises(UserError, match=f"the tolerance of an answer of type 'point' is {tolerance}; give "):
        read(Answer("point", (1, 2), tolerance=tolerance))


def test_written_numbers_read_back_exactly():
    assert written_numbers((1, 2.0, 0.1, -1e-7)) == "1, 2, 0.1, -1e-07"
