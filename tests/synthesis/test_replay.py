from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.synthesis.replay import Replay


def test_every_completion_is_imitated_as_it_is(graded, candidate):
    sample = graded(candidate("a", correct=0), candidate("  "), candidate("a", correct=1), candidate("b  c"))
    made = Replay()(replace(sample, weight=0.5))
    assert [one.messages[-1].text for one in made] == ["a", "a", "b  c"]
    assert [one.weight for one in made] == [0.5] * 3
    assert len({one.id for one in made}) == 3
    assert all(one.messages[-1].train and not one.candidates for one in made)


def test_weights_are_grades_and_may_be_shared(graded, candidate):
    sample = graded(candidate("a", reward=0.0), candidate("b", reward=3.0))
    assert [one.weight for one in Replay(weight="reward")(sample)] == [0.0, 3.0]
    assert [one.weight for one in Replay(weight="reward", shared=True)(sample)] == [0.0, 1.5]


def test_a_grade_that_is_no_weight_is_refused(graded, candidate):
    for bad in (candidate("a"), candidate("a", reward=-1.0), candidate("a", reward=float("nan"))):
        with pytest.raises(BadSampleError, match="grade 'reward' of 0 or more"):
            Replay(weight="reward")(graded(bad))
    with pytest.raises(BadSampleError, match="no candidates"):
        Replay()(graded())
