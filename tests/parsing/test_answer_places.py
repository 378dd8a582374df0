from typing import get_args

import pytest

from lit_vlm.interfaces.records import Answer, AnswerPlace
from lit_vlm.parsing.answer_places import find_answer
from lit_vlm.parsing.answers import check_answer

WRITTEN = {"tags": "<answer>5</answer>", "boxed": r"So \boxed{5}.", "stated": "We add.\nThe answer is 5.", "whole": "5"}


@pytest.mark.parametrize("place", WRITTEN)
def test_an_answer_counts_in_its_own_place(place):
    assert find_answer(WRITTEN[place], place) == "5"
    assert find_answer(WRITTEN[place], "any") == "5"
    assert check_answer(WRITTEN[place], Answer("number", "5", place=place)).correct


@pytest.mark.parametrize("place", ["tags", "boxed", "stated"])
@pytest.mark.parametrize("written", WRITTEN)
def test_an_answer_in_another_place_is_none(place, written):
    assert (find_answer(WRITTEN[written], place) is not None) == (place == written)


@pytest.mark.parametrize("place", list(get_args(AnswerPlace)))
@pytest.mark.parametrize("text", ["", "  \n", "<think>5", "<think>5</think>"])
def test_a_completion_without_an_answer_has_none_anywhere(place, text):
    assert find_answer(text, place) is None


@pytest.mark.parametrize("place", ["boxed", "stated", "whole", "any"])
def test_what_was_only_thought_does_not_count(place):
    thought = r"<think>\boxed{4} The answer is 4.</think>"
    assert find_answer(f"{thought} {WRITTEN.get(place, '5')}", place) == "5"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{4} or rather \boxed{5}", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{5} and \boxed{6", "5"),
        (r"\boxed{ }", None),
        ("no box", None),
    ],
)
def test_the_last_closed_box_counts(text, answer):
    assert find_answer(text, "boxed") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 5", "5"),
        ("the final answer is: $5$.", "$5$"),
        ("**Final Answer: B**", "B"),
        ("**Answer:** (B)", "(B)"),
        ("2 + 3 = 5\n#### 1,234", "1,234"),
        ("The answer is 4. No, wait.\nAnswer: 5", "5"),
        ("The answer is 3.5.", "3.5"),
        ("Answer:", None),
        ("I cannot answer this", None),
    ],
)
def test_the_last_statement_of_an_answer_counts(text, answer):
    assert find_answer(text, "stated") == answer


def test_the_form_of_a_completion_follows_the_place():
    tagged = "<think>2 + 3</think><answer>5</answer>"
    assert check_answer(tagged, Answer("number", "5")).formatted
    assert not check_answer("<answer>5</answer>", Answer("number", "5")).formatted
    assert check_answer(r"\boxed{4}", Answer("number", "5", place="boxed")).formatted
    assert not check_answer("5", Answer("number", "5", place="boxed")).formatted
