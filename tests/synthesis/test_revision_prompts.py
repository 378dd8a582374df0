import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.revision_prompts import RevisionPrompts
from tests.synthesis.critic_material import TRUE, critic, criticised, question


def test_each_critique_asks_for_a_revision_of_the_same_question():
    sample = criticised(critic([TRUE]), critic(None, text=" "), critic([]))
    first, second = RevisionPrompts()(sample)
    assert (first.id, second.id) == ("page-1#0#0", "page-1#0#2")
    assert second.meta.extra == {"parent": "page-1#0", "candidate": 2}
    assert "Question: What do they add up to?\nSolution: 2 + 3 = 6. so 6.\nCritique: [{" in first.question
    assert (first.answer, first.images, first.candidates) == (sample.answer, sample.images, ())


def test_a_revision_is_verified_as_a_solution():
    (asked,) = RevisionPrompts(instruction="Mend it.")(criticised(critic([TRUE])))
    assert asked.critique is None
    assert asked.question.startswith("Mend it.\n")


def test_evaluation_asks_after_the_first_critique():
    assert RevisionPrompts().for_evaluation(criticised(critic([TRUE]), critic([]))).id == "page-1#0#0"
    assert RevisionPrompts().for_evaluation(criticised()) == criticised()


def test_critiques_of_nothing_are_refused():
    with pytest.raises(BadSampleError, match="without the solution"):
        RevisionPrompts()(question("[]"))
    with pytest.raises(UserError, match="instruction"):
        RevisionPrompts(instruction="\n")
