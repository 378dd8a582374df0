from dataclasses import replace

import pytest

from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.judge_filter import JudgeFilter


@pytest.fixture
def sample(graded, candidate):
    """Candidates named by what the judge says and whether they are right."""

    def judged(text, verdict, correct, score=None):
        critique = Critique("?", text, verdict=verdict, score=score)
        return replace(candidate(text, correct=correct), critique=critique)

    return graded(
        judged("right, is", "right", 1, 0.9),
        judged("right, is not", "right", 0, 0.6),
        judged("wrong, is", "wrong", 1, 0.1),
        judged("wrong, is not", "wrong", 0),
        judged("mute", None, 1),
        candidate("unjudged", correct=1),
        sample_id="q",
    )


def kept(operator, sample):
    return [one.text for found in operator([sample]) for one in found.candidates]


def test_what_the_judge_thinks_right_is_kept(sample):
    assert kept(JudgeFilter(), sample) == ["right, is", "right, is not"]
    assert kept(JudgeFilter(verdict="wrong"), sample) == ["wrong, is", "wrong, is not"]
    assert kept(JudgeFilter(verdict=None, least_score=0.6), sample) == ["right, is", "right, is not"]


def test_critiques_that_tell_the_truth_are_kept(sample):
    assert kept(JudgeFilter(verdict=None, truthful=True), sample) == ["right, is", "wrong, is not"]
    assert kept(JudgeFilter(verdict="wrong", truthful=True), sample) == ["wrong, is not"]


def test_why_is_counted(sample):
    _, reasons = JudgeFilter().with_reasons([sample])
    assert reasons == {
        "candidates judged wrong": 2,
        "candidates whose critique has no verdict": 1,
        "candidates without a critique": 1,
    }


def test_what_is_not_judged_is_dropped_kept_or_refused(sample):
    assert kept(JudgeFilter(unjudged="keep"), sample) == ["right, is", "right, is not", "mute", "unjudged"]
    with pytest.raises(UserError, match="^q has a candidate that is not judged"):
        JudgeFilter(unjudged="error")([sample])


def test_a_set_that_nobody_judged_is_refused(graded, candidate):
    with pytest.raises(UserError, match=r"q has no judged candidate; name the judge's ledgers in data\.attach"):
        JudgeFilter()([graded(candidate("a"), sample_id="q")])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"verdict": "maybe"}, "right, wrong"),
        ({"verdict": None}, "nothing is asked"),
        ({"least_score": float("nan")}, "least_score is not a number"),
        ({"unjudged": "no"}, "error, drop, keep"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        JudgeFilter(**settings)
