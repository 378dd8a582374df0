from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.synthesis.expert_pairs import ExpertPairs


def test_the_expert_is_preferred_to_the_first_own_candidate(graded, candidate, texts):
    sample = graded(candidate("spoilt", model="injected_error"), candidate("left"), candidate("up"), reference="right")
    (built,) = ExpertPairs()(sample)
    (pair,) = built.preferences
    assert texts(pair) == ("right", "left")
    assert pair.weight == 1
    assert all(message.train for message in (*pair.chosen, *pair.rejected))
    assert built.messages == sample.prompt


def test_equal_actions_are_imitated_alone(graded, candidate, texts):
    sample = graded(candidate(" right"), reference="right")
    (built,) = ExpertPairs()(sample)
    assert [texts(pair) for pair in built.preferences] == [("right", "")]
    assert built.preferences[0].rejected == ()
    assert ExpertPairs().for_evaluation(sample) == sample


@pytest.mark.parametrize(("own", "expert"), [("", "right"), ("left", " ")])
def test_an_empty_action_is_not_stored(graded, candidate, own, expert):
    assert ExpertPairs()(graded(candidate(own), reference=expert)) == ()


def test_a_state_without_an_expert_is_bad(graded, candidate):
    with pytest.raises(BadSampleError, match="s: has no expert's completion"):
        ExpertPairs()(graded(candidate("left"), reference=None))


def test_a_state_without_the_models_action_is_bad(graded):
    with pytest.raises(BadSampleError, match="s: has no candidates"):
        ExpertPairs()(graded())


def test_evaluation_never_raises(graded, candidate):
    for sample in (graded(), graded(reference=None), graded(candidate("left"), reference=None), graded(candidate(""))):
        assert ExpertPairs().for_evaluation(sample) == sample


def test_evaluation_keeps_the_sample_and_adds_the_pair(graded, candidate, texts):
    sample = graded(candidate("left"), reference="right")
    evaluated = ExpertPairs().for_evaluation(sample)
    assert [texts(pair) for pair in evaluated.preferences] == [("right", "left")]
    assert replace(evaluated, preferences=()) == sample
