from dataclasses import dataclass, replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Message, Preference, TextPart, assistant_message
from lit_vlm.synthesis.pair_transform import PairTransform, preference_between


@dataclass(frozen=True)
class Given(PairTransform):
    given: tuple[Preference, ...]

    def pairs(self, sample):
        return self.given


RIGHT, WRONG = (assistant_message("right"),), (assistant_message("wrong"),)
PAIR = Preference(RIGHT, WRONG)


def test_pairs_of_a_sample_share_its_weight(candidate, graded):
    (built,) = Given((PAIR, PAIR, replace(PAIR, weight=0.5)))(graded(candidate("a")))
    assert [pair.weight for pair in built.preferences] == pytest.approx([1 / 3, 1 / 3, 1 / 6])


def test_training_sees_the_prompt_and_the_pairs(candidate, graded):
    sample = graded(candidate("a"))
    (built,) = Given((PAIR,))(sample)
    assert built == replace(sample, messages=sample.prompt, candidates=(), preferences=(PAIR,))
    assert built.meta == sample.meta


def test_a_sample_without_a_pair_is_not_trained_on(candidate, graded):
    assert Given(())(graded(candidate("a"))) == ()


def test_a_sample_without_candidates_is_bad(graded):
    with pytest.raises(BadSampleError, match="s: has no candidates"):
        Given((PAIR,))(graded())


def test_evaluation_adds_the_pairs_and_nothing_else(candidate, graded):
    sample = graded(candidate("a"))
    assert Given((PAIR,)).for_evaluation(sample) == replace(sample, preferences=(PAIR,))


def test_evaluation_takes_a_sample_without_a_pair_as_it_is(graded):
    for sample in (graded(), graded(reference=None)):
        assert Given(()).for_evaluation(sample) == sample


def test_evaluation_leaves_out_what_has_no_rejected_side(candidate, graded):
    transform = Given((Preference(RIGHT, ()), PAIR))
    assert transform.for_evaluation(graded(candidate("a"))).preferences == (PAIR,)


def test_a_pair_trains_both_sides_and_never_says_the_same_twice():
    untrained = (Message("assistant", (TextPart("right"),)),)
    assert preference_between(untrained, WRONG) == PAIR
    assert preference_between(untrained, (assistant_message(" right"),)) is None
