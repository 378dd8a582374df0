import pytest

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Answer, Candidate, Message, Sample, TextPart, assistant_message, user_message
from lit_vlm.synthesis.judged_solution import (
    asked_about,
    made_of,
    question_text,
    reference_answer,
    single_turn,
    solution_of,
)
from tests.synthesis.critic_material import PAGE, criticised, question


def test_one_turn_is_the_question_and_several_are_told_by_role():
    assert question_text(question()) == "What do they add up to?"
    talk = Sample("s", (user_message("2 + 2?"), Message("assistant", (TextPart("4"),)), user_message("and 3?")))
    assert question_text(talk) == "user: 2 + 2?\nassistant: 4\nuser: and 3?"


def test_pictures_stand_before_the_text_in_their_order():
    turn = Message("user", (TextPart("Is"), *user_message("", images=2).content))
    (message,) = asked_about(Sample("s", (turn,), images=(PAGE, PAGE)), "new words")
    assert [getattr(part, "index", None) for part in message.content] == [0, 1, None]
    assert message.text == "new words"


def test_critiques_without_a_solution_are_refused():
    with pytest.raises(BadSampleError, match="page-1: has critiques without the solution"):
        solution_of(question())
    assert solution_of(criticised()).response == "2 + 3 = 6. so 6."


def test_what_is_made_names_what_it_was_made_of():
    made = made_of(question("5", "6"), 1, (user_message("x"),))
    assert (made.id, made.meta.extra, made.candidates) == ("page-1#1", {"parent": "page-1", "candidate": 1}, ())
    assert (made.images, made.meta.category) == ((PAGE,), "sum")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer("number", "5"), "5"),
        (Answer("boxes", [(1, 2, 3, 4)]), "(1, 2, 3, 4)"),
        (Answer("assignment", {"ann": "knave", "bob": "knight"}), "ann: knave, bob: knight"),
        (Answer("open", None), None),
        (None, None),
    ],
)
def test_answers_in_words(answer, told):
    assert reference_answer(answer) == told


def test_a_candidate_of_several_turns_is_refused():
    candidate = Candidate((assistant_message("a"), user_message("b"), assistant_message("c")))
    with pytest.raises(BadSampleError, match="candidate 3 is not one turn"):
        single_turn(question(), 3, candidate)
