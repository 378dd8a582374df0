import itertools

import pytest

from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.embedded_grades import ATTRIBUTES, grade
from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.interfaces.records import Answer
from lit_vlm.parsing.answers import check_answer

REFERENCE = "<think>i see 2 3 4. 2 + 3 = 5. 5 + 4 = 9.</think><answer>9</answer>"
NINE = Answer("number", "9")


def grades(completion, reference=REFERENCE, answer=NINE):
    return grade(completion, check_answer(completion, answer), reference, answer)


def wrapped(thought, answer):
    return f"<think>{thought}</think><answer>{answer}</answer>"


@pytest.mark.parametrize("generator", [DigitsReasoningGenerator(), ShapeSceneGenerator()])
def test_references_get_the_best_grades(generator):
    for index in range(100):
        sample = generator.sample("train", index)
        reference = sample.messages[-1].text
        found = grades(reference, reference, sample.answer)
        assert tuple(found) == ATTRIBUTES
        assert [found[name] for name in ("helpfulness", "correctness", "coherence", "verbosity")] == [4, 4, 4, 2]
        assert 1 <= found["complexity"] <= 4


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("", 0),
        ("9", 0),
        ("<think>a</think><answer></answer>", 0),
        (wrapped("a", "nine or so"), 1),
        ("<answer>8</answer>", 2),
        ("<answer>9</answer>", 2),
        (wrapped("a", "8"), 3),
        (wrapped("a", "9"), 4),
    ],
)
def test_helpfulness_asks_for_an_answer_then_its_kind_then_the_form_then_the_truth(completion, expected):
    assert grades(completion)["helpfulness"] == expected


@pytest.mark.parametrize(
    ("answer", "right_kind", "wrong_kind"),
    [
        (Answer("yesno", "yes"), "no", "3"),
        (Answer("boxes", [(0, 0, 4, 4)], coords="pixel", tolerance=0.5), "(20, 20, 30, 30)", "left"),
        (Answer("point_in_box", (0, 0, 4, 4), coords="pixel"), "(20, 20)", "left"),
        (Answer("list", ["red star"]), "blue star, red circle", "1, 2"),
        (Answer("text", "top"), "bottom", "12"),
        (NINE, "8", "top"),
    ],
)
def test_each_type_of_answer_has_its_kind(answer, right_kind, wrong_kind):
    assert grades(wrapped("a", right_kind), answer=answer)["helpfulness"] == 3
    assert grades(wrapped("a", wrong_kind), answer=answer)["helpfulness"] == 1


def test_correctness_is_above_all_the_answer_then_the_share_of_the_thought():
    thoughts = ["i see 2 3 4. 2 + 3 = 5. 5 + 4 = 9.", "i see 2 3 4. 2 + 3 = 5. 5 + 4 = 8.", "i see 2 3 4. 2 + 3.", "hm"]
    assert [grades(wrapped(thought, "9"))["correctness"] for thought in thoughts] == [4, 3, 3, 3]
    assert [grades(wrapped(thought, "8"))["correctness"] for thought in thoughts] == [2, 2, 1, 0]


def test_coherence_asks_whether_the_answer_follows():
    expected = {
        "<answer>9</answer>": 0,
        "<think>i see 2 3 4.</think>": 0,
        wrapped("i see 2 3 4. 2 + 3 = 5. 5 + 4 = 9.", "8"): 1,
        wrapped("perhaps", "9"): 2,
        wrapped("i see 2 3 4. 2 + 3 = 5. 7 + 4 = 11.", "11"): 3,
        wrapped("i see 2 3 5. 2 + 3 = 5. 5 + 5 = 10.", "10"): 4,
    }
    assert {completion: grades(completion)["coherence"] for completion in expected} == expected


def test_complexity_counts_sentences():
    thoughts = [" ".join(["a."] * count) for count in range(7)]
    assert [grades(wrapped(thought, "9"))["complexity"] for thought in thoughts] == [0, 1, 2, 3, 4, 4, 4]


def test_verbosity_grows_with_length_and_is_two_for_the_reference():
    found = [grades("a " * count)["verbosity"] for count in range(100)]
    assert all(first <= second for first, second in itertools.pairwise(found))
    assert (found[0], found[-1], set(found)) == (0, 4, {0, 1, 2, 3, 4})
    assert grades(REFERENCE)["verbosity"] == 2


def test_a_right_completion_is_two_grades_above_every_wrong_one():
    right = [wrapped("i see 2 3 4. 2 + 3 = 5. 5 + 4 = 9.", "9"), wrapped("hm", "9")]
    wrong = [wrapped("i see 2 3 4. 2 + 3 = 5. 5 + 4 = 9.", "8"), wrapped("hm", "8"), "", wrapped("", "x")]
    total = {text: sum(grades(text)[name] for name in ("helpfulness", "correctness")) for text in (*right, *wrong)}
    assert min(total[text] for text in right) >= 2 + max(total[text] for text in wrong)
