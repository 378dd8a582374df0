import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.candidate_cap import CandidateCap
from lit_vlm.synthesis.candidate_filter import CandidateFilter


@pytest.fixture
def capped(graded, candidate):
    """Caps candidates of these texts and scores, and tells what stays."""

    def cap(operator, *pairs):
        (sample,) = operator([graded(*(candidate(text, correct=score) for text, score in pairs))])
        return [one.text for one in sample.candidates]

    return cap


CARD = [("a", 0), ("long answer", 1), ("ok", 1), ("b", 0.4)]


def test_the_card_of_rejection_sampling(graded, candidate):
    sample = graded(*(candidate(text, correct=score) for text, score in CARD))
    (kept,) = CandidateCap(1, by="shortest")(CandidateFilter(least=1.0)([sample]))
    assert [one.text for one in kept.candidates] == ["ok"]


def test_ties_go_to_the_lowest_place(capped):
    assert capped(CandidateCap(1, by="best"), *CARD) == ["long answer"]
    assert capped(CandidateCap(1, by="shortest"), ("bb", 1), ("aa", 1)) == ["bb"]
    assert capped(CandidateCap(2), *CARD) == ["a", "long answer"]


def test_what_stays_keeps_its_order(capped):
    assert capped(CandidateCap(3, by="best"), *CARD) == ["long answer", "ok", "b"]


def test_repeats_go_first_and_white_space_does_not_tell_them_apart(capped):
    pairs = [("one\n two", 1), ("one two ", 1), ("three", 1)]
    assert capped(CandidateCap(2), *pairs) == ["one\n two", "three"]
    assert capped(CandidateCap(2, distinct=False), *pairs) == ["one\n two", "one two "]


def test_so_many_right_and_so_many_wrong(capped):
    pairs = [("a", 1), ("b", 1), ("c", 0), ("d", 1), ("e", 0), ("a", 0)]
    assert capped(CandidateCap(1, each="correct"), *pairs) == ["a", "c"]
    # The same words graded differently are two candidates.
    assert capped(CandidateCap(9, each="correct"), *pairs) == ["a", "b", "c", "d", "e", "a"]


def test_a_draw_hangs_on_the_seed_and_not_on_the_order(capped):
    pairs = [(f"t{number}", 1) for number in range(30)]
    drawn = capped(CandidateCap(5, by="random"), *pairs)
    assert set(capped(CandidateCap(5, by="random"), *reversed(pairs))) == set(drawn)
    assert capped(CandidateCap(5, by="random", seed=1), *pairs) != drawn
    assert len(drawn) == 5


def test_what_is_left_out_is_counted(graded, candidate):
    _, reasons = CandidateCap(1).with_reasons([graded(candidate("a"), candidate("a "), candidate("b"))])
    assert reasons == {"candidates that repeat an earlier one": 1, "candidates beyond 1 of a sample": 1}


def test_a_grade_that_the_choice_needs_must_be_there(graded, candidate):
    for operator in (CandidateCap(1, by="best"), CandidateCap(1, each="correct")):
        with pytest.raises(UserError, match="^q has a candidate without a grade 'correct'"):
            operator([graded(candidate("a"), sample_id="q")])


@pytest.mark.parametrize(
    ("settings", "told"), [({"most": 0}, "at least 1"), ({"most": 1, "by": "luck"}, "first, shortest, best, random")]
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        CandidateCap(**settings)
