from dataclasses import replace

import pytest

from lit_vlm.functional.next_turn import EARLIER_REWARDS
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.next_turn_prompts import NextTurnPrompts


def attempts(sample):
    return [message.text for message in sample.prompt if message.role == "assistant"]


def test_each_wrong_completion_is_asked_about_and_right_ones_end_their_dialogue(graded, candidate):
    sample = graded(candidate("8", correct=0), candidate("7", correct=1), candidate("9", correct=0))
    made = NextTurnPrompts(feedback="No.")(sample)
    assert [asked.id for asked in made] == ["s#0", "s#2"]
    assert [attempts(asked) for asked in made] == [["8"], ["9"]]
    assert all(asked.question == "No." for asked in made)
    assert made[1].meta.extra == {"parent": "s", "candidate": 2, EARLIER_REWARDS: [0.0]}
    assert made[0].answer == sample.answer
    assert made[0].images == sample.images
    assert made[0].messages[-1] == sample.messages[-1]


def test_dialogues_go_on_over_several_turns(graded, candidate):
    (once,) = NextTurnPrompts()(graded(candidate("8", correct=0)))
    (twice,) = NextTurnPrompts()(replace(once, candidates=(candidate("9", correct=0),)))
    assert twice.id == "s#0#0"
    assert attempts(twice) == ["8", "9"]
    assert twice.meta.extra[EARLIER_REWARDS] == [0.0, 0.0]
    assert twice.meta.extra["parent"] == "s#0"


def test_the_number_of_dialogues_has_a_limit_and_empty_attempts_are_left_out(graded, candidate):
    sample = graded(candidate(" ", correct=0), *(candidate(text, correct=0) for text in "abc"))
    assert [asked.id for asked in NextTurnPrompts(per_prompt=2)(sample)] == ["s#1", "s#2"]
    assert NextTurnPrompts()(graded(candidate("", correct=0))) == ()


def test_other_grades_may_tell_success(graded, candidate):
    sample = graded(candidate("a", judge=0.7), candidate("b", judge=0.2))
    assert [asked.id for asked in NextTurnPrompts(score=("judge",), success=0.5)(sample)] == ["s#1"]


def test_evaluation_goes_on_with_the_first_wrong_completion_or_asks_as_it_stands(graded, candidate):
    transform = NextTurnPrompts()
    sample = graded(candidate("7", correct=1), candidate("8", correct=0), candidate("9", correct=0))
    assert attempts(transform.for_evaluation(sample)) == ["8"]
    for sample in (graded(), graded(candidate("7", correct=1))):
        assert transform.for_evaluation(sample) is sample


def test_samples_without_graded_single_turns_are_refused(graded, candidate):
    with pytest.raises(BadSampleError, match="no candidates"):
        NextTurnPrompts()(graded())
    with pytest.raises(BadSampleError, match="without correct"):
        NextTurnPrompts()(graded(candidate("8", helpfulness=1)))
    two = candidate("8", correct=0)
    with pytest.raises(BadSampleError, match="2 turns"):
        NextTurnPrompts()(graded(replace(two, messages=two.messages * 2)))


@pytest.mark.parametrize(
    "settings", [{"feedback": " "}, {"score": ()}, {"per_prompt": 0}, {"success": float("nan")}, {"score": ("a", "a")}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        NextTurnPrompts(**settings)
