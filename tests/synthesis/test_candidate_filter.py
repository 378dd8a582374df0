import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.candidate_filter import CandidateFilter


def texts(samples):
    return [[one.text for one in sample.candidates] for sample in samples]


def test_a_threshold_keeps_what_reaches_it(graded, candidate):
    # The card of rejection sampling: rewards 0, 1, 1, 0.4.
    sample = graded(*(candidate(text, correct=s) for text, s in [("a", 0), ("long", 1), ("ok", 1), ("b", 0.4)]))
    assert texts(CandidateFilter()([sample])) == [["long", "ok"]]
    assert texts(CandidateFilter(least=0.4, most=0.9)([sample])) == [["b"]]
    assert texts(CandidateFilter(least=None, most=0.4)([sample])) == [["a", "b"]]


def test_a_prompt_of_which_all_are_wrong_is_dropped_and_counted(graded, candidate):
    kept, reasons = CandidateFilter().with_reasons([graded(candidate("a", correct=0), candidate("b", correct=0))])
    assert kept == []
    assert reasons == {"candidates with correct below 1": 2, "samples of which no candidate is left": 1}


def test_one_that_lacks_the_grade_is_refused_dropped_or_kept(graded, candidate):
    sample = graded(candidate("a", correct=1), candidate("b"), candidate("", correct=1), sample_id="q")
    with pytest.raises(UserError, match="^q has a candidate without a grade 'correct'"):
        CandidateFilter()([sample])
    assert texts(CandidateFilter(without_score="drop")([sample])) == [["a"]]
    assert texts(CandidateFilter(without_score="keep")([sample])) == [["a", "b"]]
    assert texts(CandidateFilter(without_score="drop", drop_empty=False)([sample])) == [["a", ""]]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score": ()}, "score"),
        ({"least": float("nan")}, "least is not a number"),
        ({"least": 2, "most": 1}, "exchange them"),
        ({"without_score": "no"}, "error, drop, keep"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        CandidateFilter(**settings)
