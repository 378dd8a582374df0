import math

import pytest

from lit_vlm.data.records.graded_completions import EMPTY_COMPLETION, NO_GRADE, read_candidates
from lit_vlm.interfaces.errors import UserError
from tests.data.preference_material import CANDIDATES, GRADED, ULTRAFEEDBACK, VLFEEDBACK


def of(record):
    return read_candidates(record["completions"])


def shown(candidates):
    return [(candidate.text, dict(candidate.scores), candidate.model) for candidate in candidates]


def test_a_dict_of_lists_and_a_list_of_dicts_say_the_same():
    candidates, repairs = of(VLFEEDBACK[0])
    assert shown(candidates) == [
        ("A cat.", {"helpfulness": 5.0, "visual_faithfulness": 5.0}, "m1"),
        ("A dog.", {"helpfulness": 2.0, "visual_faithfulness": 1.0, "ethical_considerations": 5.0}, "m2"),
    ]
    assert repairs == (NO_GRADE,)
    assert shown(of(VLFEEDBACK[1])[0]) == [
        ("A cat.", {"helpfulness": 5.0}, "m1"),
        ("A dog.", {"helpfulness": 2.0}, "m2"),
    ]
    assert shown(of(VLFEEDBACK[2])[0]) == [("Hello.", {"helpfulness": 4.0}, "m1"), ("Go.", {"helpfulness": 1.0}, "m2")]


def test_grades_are_numbers_by_name_and_na_is_dropped():
    candidates, repairs = of(ULTRAFEEDBACK[0])
    assert candidates[0].scores == {"helpfulness": 4.0, "honesty": 5.0, "instruction_following": 5.0}
    assert len(candidates[1].scores) == 4
    assert repairs == (NO_GRADE,)
    assert of(GRADED[0])[0][0].scores == {"helpfulness": 4.0, "correctness": 3.0, "verbosity": 2.0}
    assert [candidate.scores for candidate in of(GRADED[1])[0]] == [
        {"correct": 1.0},
        {"correct": 0.0},
        {"correct": 0.0},
    ]


def test_an_empty_completion_among_others_is_left_out_and_counted():
    candidates, repairs = of(ULTRAFEEDBACK[1])
    assert shown(candidates) == [("Hi.", {"helpfulness": 4.0}, "m1")]
    assert repairs == (EMPTY_COMPLETION,)


def test_completions_may_be_texts_alone_or_written_as_text():
    assert shown(read_candidates(["A", "B"])[0]) == [("A", {}, ""), ("B", {}, "")]
    assert shown(read_candidates('[{"text": "A", "score": 3}]')[0]) == [("A", {"score": 3.0}, "")]
    assert shown(read_candidates([{"text": "[1, 2]", "scores": 0.5}])[0]) == [("[1, 2]", {"score": 0.5}, "")]


def test_keys_that_arrow_fills_in_do_not_count():
    filled = [{"text": "A", "scores": {"helpfulness": 1, "honesty": None}, "model": None, "response": None}]
    assert shown(read_candidates(filled)[0]) == [("A", {"helpfulness": 1.0}, "")]


def test_the_assistants_turn_is_learnt():
    (message,) = of(GRADED[0])[0][0].messages
    assert (message.role, message.train) == ("assistant", True)


@pytest.mark.parametrize(
    ("completions", "told"),
    [
        (CANDIDATES["vlfeedback"][-1]["completions"], "have 2 texts and 1 model; they must be as many"),
        (CANDIDATES["ultrafeedback"][-1]["completions"], "none of its completions has a text"),
        (CANDIDATES["graded"][-1]["completions"], "completion 1 has the helpfulness 'good'; give a number, or N/A"),
        ([{"said": "A"}], r"completion 1 has no text; it holds \['said'\]"),
        (["A", [1]], "completion 2 must be a text or an object, it is a list"),
        ({"said": ["A"]}, r"an object with \['said'\]"),
        ("A", "must be a list, they are a string"),
        ([], "none of its completions has a text"),
        ([{"text": "A", "scores": {"helpfulness": math.inf}}], "has the helpfulness 'inf'"),
    ],
)
def test_what_cannot_be_read_is_named(completions, told):
    with pytest.raises(UserError, match=told):
        read_candidates(completions)
