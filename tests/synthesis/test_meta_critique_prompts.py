import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.meta_critique_prompts import MetaCritiquePrompts
from tests.synthesis.critic_material import FALSE, TRUE, critic, criticised, question


def test_each_critique_with_remarks_is_asked_about():
    sample = criticised(critic([]), critic([TRUE, FALSE]), critic(None, text="It is wrong."), critic([FALSE]))
    first, second = MetaCritiquePrompts()(sample)
    assert (first.id, second.id) == ("page-1#0#1", "page-1#0#3")
    assert first.meta.extra == {"parent": "page-1#0", "candidate": 1}
    assert "Remark 1: step 2: 2 + 3 is 5, not 6" in first.question
    assert "Remark 2: step 1: there is a 7" in first.question
    assert "Reference answer: 5" in first.question


def test_the_critique_is_what_is_judged_so_that_its_labels_find_back():
    sample = criticised(critic([TRUE]))
    (asked,) = MetaCritiquePrompts()(sample)
    assert asked.critique.response == sample.candidates[0].text
    assert asked.answer is None
    assert asked.images == sample.images


def test_the_true_answer_may_be_kept_back():
    (asked,) = MetaCritiquePrompts(with_reference=False)(criticised(critic([TRUE])))
    assert "Reference" not in asked.question


def test_evaluation_asks_about_the_first_critique_with_remarks():
    sample = criticised(critic([]), critic([TRUE]))
    assert MetaCritiquePrompts().for_evaluation(sample).id == "page-1#0#1"
    assert MetaCritiquePrompts().for_evaluation(criticised(critic([]))).id == "page-1#0"


def test_critiques_of_nothing_are_refused():
    with pytest.raises(BadSampleError, match="without the solution"):
        MetaCritiquePrompts()(question("[]"))
    with pytest.raises(UserError, match="instruction"):
        MetaCritiquePrompts(instruction="")
