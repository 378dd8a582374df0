import random

import pytest

from lit_vlm.data.derivation_checks import check_derivation
from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.scripted_revisions import revise, revision_score, suggested_changes
from lit_vlm.interfaces.critiques import CritiqueUnit
from lit_vlm.interfaces.records import Answer, Sample, SampleMeta, assistant_message, user_message

PAGE = Sample(
    "page",
    (user_message("What do the digits add up to?", images=1), assistant_message("<think>i see 2 3 4. …</think>")),
    answer=Answer("number", "9"),
    meta=SampleMeta(category="sum", extra={"rows": ((2, 3, 4),)}),
)
MISCALCULATED = "<think>i see 2 3 4. 2 + 3 = 6. 6 + 4 = 10.</think><answer>10</answer>"
MISREAD = "<think>i see 2 3 7. 2 + 3 = 5. 5 + 7 = 12.</think><answer>12</answer>"
RIGHT = "<think>i see 2 3 4. 2 + 3 = 5. 5 + 4 = 9.</think><answer>9</answer>"


def revised(text, **changes):
    return revise(PAGE, check_derivation(PAGE, text), {int(name[1:]): said for name, said in changes.items()})


@pytest.mark.parametrize("text", [MISCALCULATED, MISREAD, RIGHT])
def test_without_changes_a_solution_stays(text):
    assert revised(text) == text


def test_a_mended_step_mends_what_follows_from_it():
    assert revised(MISCALCULATED, s2="2 + 3 = 5") == RIGHT


def test_a_mended_reading_mends_the_whole():
    assert revised(MISREAD, s1="i see 2 3 4") == RIGHT


def test_a_misreading_that_nobody_names_stays():
    text = "<think>i see 2 3 7. 2 + 3 = 6. 6 + 7 = 13.</think><answer>13</answer>"
    assert revised(text, s2="2 + 3 = 5") == MISREAD


def test_wrong_advice_is_followed_too():
    assert revised(RIGHT, s2="2 + 3 = 6") == MISCALCULATED


def test_the_answer_alone_can_be_changed():
    assert revised(MISCALCULATED, s4="the answer is 9").endswith("6 + 4 = 10.</think><answer>9</answer>")


def test_advice_that_cannot_stand_there_is_passed_over():
    assert revised(MISCALCULATED, s2="look again", s9="2 + 3 = 5") == MISCALCULATED


def test_the_score_is_the_share_of_right_steps_from_one_to_ten():
    assert revision_score(PAGE, RIGHT) == 10.0
    # Of four steps the second and the answer are wrong.
    assert revision_score(PAGE, MISCALCULATED) == 1 + 9 * 2 / 4
    assert revision_score(PAGE, "no derivation") == 1.0


def test_changes_are_read_from_remarks_on_numbered_steps():
    units = [
        CritiqueUnit("Step 2", "x", 2.0, "2 + 3 = 5"),
        CritiqueUnit("step 2", "x", 2.0, "later advice"),
        CritiqueUnit("step 3", "x"),
        CritiqueUnit("the end", "x", 2.0, "y"),
    ]
    assert suggested_changes(units, random.Random(0)) == {2: "2 + 3 = 5"}
    assert suggested_changes(units, random.Random(0), passed_over=1.0) == {}


def test_every_reference_solution_is_left_as_it_is():
    generator = DigitsReasoningGenerator()
    for index in range(12):
        sample = generator.sample("train", index)
        text = sample.messages[-1].text
        assert revise(sample, check_derivation(sample, text), {}) == text
        assert revision_score(sample, text) == 10.0
