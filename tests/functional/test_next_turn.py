from dataclasses import replace

import pytest

from lit_vlm.functional.next_turn import EARLIER_REWARDS, FEEDBACK, next_turn, tried_question
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Candidate, Sample, assistant_message, user_message

ASKED = Sample("s", (user_message("2 + 2?", images=1), assistant_message("4")))


def said(sample):
    return [(message.role, message.text) for message in sample.messages]


def test_an_attempt_and_its_feedback_stand_between_the_question_and_the_reference():
    again = next_turn(ASKED, "5", "No.")
    assert said(again) == [("user", "2 + 2?"), ("assistant", "5"), ("user", "No."), ("assistant", "4")]
    assert [message.train for message in again.messages] == [False, False, False, True]
    assert again.messages[0].content == ASKED.messages[0].content
    assert again.question == "No."


def test_without_a_reference_the_feedback_is_the_last_turn():
    again = next_turn(replace(ASKED, messages=ASKED.prompt), "5")
    assert said(again)[1:] == [("assistant", "5"), ("user", FEEDBACK)]
    assert again.prompt == again.messages


def test_a_prompt_is_taken_apart_as_it_was_put_together():
    asked = replace(ASKED, messages=(replace(user_message("be brief"), role="system"), *ASKED.messages))
    assert tried_question(asked).question == asked.prompt
    assert tried_question(asked).earlier == ()
    twice = next_turn(next_turn(asked, "5", "No.", 0.25), "6", "Still not.")
    assert twice.meta.extra[EARLIER_REWARDS] == [0.25, 0.0]
    tried = tried_question(twice)
    assert tried.question == asked.prompt
    turns = [(turn.attempt.text, turn.feedback.text, turn.reward) for turn in tried.earlier]
    assert turns == [("5", "No.", 0.25), ("6", "Still not.", 0.0)]
    assert tried_question(replace(twice, messages=twice.prompt)) == tried


def test_grades_of_the_earlier_prompt_go_and_the_rest_stays():
    graded = replace(ASKED, candidates=(Candidate((assistant_message("5"),)),), weight=2.0)
    again = next_turn(graded, "5")
    assert again.candidates == ()
    assert (again.id, again.weight) == ("s", 2.0)
    assert ASKED.meta.extra == {}


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [0.0] * 3, "wrong", ["no"], [True]])
def test_rewards_that_do_not_fit_the_prompt_are_refused(rewards):
    again = next_turn(ASKED, "5")
    broken = replace(again, meta=replace(again.meta, extra={EARLIER_REWARDS: rewards}, origin="own.jsonl, line 3"))
    with pytest.raises(BadSampleError, match="own.jsonl, line 3: earlier_rewards"):
        tried_question(broken)
