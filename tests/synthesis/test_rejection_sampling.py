import itertools
from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.rejection_sampling import RejectionSampling

CARD = [("a", 0), ("long answer", 1), ("ok", 1), ("b", 0.4)]


@pytest.fixture
def make(graded, candidate):
    """Makes a sample of texts and rewards."""
    return lambda pairs: graded(*(candidate(text, correct=reward) for text, reward in pairs))


def kept(transform, sample):
    return [built.messages[-1].text for built in transform(sample)]


def test_the_shortest_right_completion_is_kept(make):
    assert kept(RejectionSampling(threshold=1.0, per_prompt=1, prefer_short=True), make(CARD)) == ["ok"]


def test_a_prompt_without_a_right_completion_is_dropped(make):
    for mode in ("threshold", "best"):
        assert RejectionSampling(mode=mode)(make([(text, 0) for text, _ in CARD])) == ()


def test_all_that_are_good_enough_are_kept_in_their_order(make):
    assert kept(RejectionSampling(per_prompt=None), make(CARD)) == ["long answer", "ok"]
    assert kept(RejectionSampling(per_prompt=None, threshold=0.4), make(CARD)) == ["long answer", "ok", "b"]
    assert kept(RejectionSampling(per_prompt=2, threshold=0.4), make(CARD)) == ["ok", "b"]


def test_without_a_liking_for_short_ones_the_first_are_kept(make):
    assert kept(RejectionSampling(prefer_short=False), make(CARD)) == ["long answer"]


def test_the_best_is_kept_and_ties_go_to_the_first(make):
    transform = RejectionSampling(mode="best", threshold=0.3)
    assert kept(transform, make(CARD)) == ["long answer"]
    assert kept(transform, make([("a", 0.4), ("b", 0.5), ("c", 0.4)])) == ["b"]
    assert kept(transform, make([("a", 0.2), ("b", 0.29)])) == []


def test_repeats_are_dropped_and_texts_stay_as_written(make):
    transform = RejectionSampling(per_prompt=None)
    assert kept(transform, make([("one\n two", 1), ("one two ", 1), ("onetwo", 1)])) == ["one\n two", "onetwo"]


def test_white_space_does_not_make_a_completion_long(make):
    assert kept(RejectionSampling(), make([("abc", 1), ("a" + " " * 9 + "b", 1), ("ab cd", 1)])) == ["abc"]
    assert kept(RejectionSampling(), make([("abcd", 1), ("a" + " " * 9 + "b", 1)])) == ["a" + " " * 9 + "b"]


def test_equally_short_ones_go_to_the_first(make):
    assert kept(RejectionSampling(), make([("bb", 1), ("aa", 1)])) == ["bb"]


def test_a_score_may_be_a_sum_of_grades(graded, candidate):
    sample = graded(candidate("a", help=4, right=3), candidate("b", help=3, right=3), candidate("c", right=9))
    assert kept(RejectionSampling(score=("help", "right"), mode="best", threshold=0), sample) == ["a"]


def test_the_order_of_candidates_does_not_matter_without_ties(make):
    sample = make([("a", 0), ("long answer", 1), ("ok", 1), ("b", 0.4), ("right", 1)])
    for settings in ({"per_prompt": 2}, {"per_prompt": None}, {"threshold": 0.3}):
        transform = RejectionSampling(**settings)
        expected = set(kept(transform, sample))
        for order in itertools.permutations(sample.candidates):
            assert set(kept(transform, replace(sample, candidates=order))) == expected


def test_what_is_kept_is_imitated_with_the_rest_of_the_sample(make):
    sample = make(CARD)
    built = RejectionSampling(per_prompt=None)(sample)
    assert len({one.id for one in (*built, sample)}) == 3
    for one in built:
        assert one.messages[:-1] == sample.prompt
        assert [message.train for message in one.messages] == [False, True]
        assert (one.images, one.answer, one.meta) == (sample.images, sample.answer, sample.meta)
        assert (one.candidates, one.preferences) == ((), ())


def test_empty_and_ungraded_candidates_are_left_out(graded, candidate):
    sample = graded(candidate(" ", correct=1), candidate("a"), candidate("b", correct=float("nan")))
    assert RejectionSampling()(sample) == ()


def test_evaluation_takes_samples_as_they_are(make, graded):
    for sample in (make(CARD), graded()):
        assert RejectionSampling().for_evaluation(sample) == sample


def test_a_sample_without_candidates_is_bad(graded):
    with pytest.raises(BadSampleError, match="s: has no candidates"):
        RejectionSampling()(graded())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score": ()}, "score is"),
        ({"score": ("a", "a")}, "each once"),
        ({"threshold": float("nan")}, "threshold is not a number"),
        ({"per_prompt": 0}, "per_prompt is 0"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(UserError, match=told):
        RejectionSampling(**settings)
