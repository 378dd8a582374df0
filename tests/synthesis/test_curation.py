"""What must hold of every operator over whole sets, and what they share."""

from collections import Counter

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import CurationOperator
from lit_vlm.synthesis.balanced_categories import BalanceCategories
from lit_vlm.synthesis.candidate_cap import CandidateCap
from lit_vlm.synthesis.candidate_filter import CandidateFilter
from lit_vlm.synthesis.curation import draw_of_each, filter_candidates, refuse_if_any
from lit_vlm.synthesis.deduplicate import Deduplicate
from lit_vlm.synthesis.difficulty_tiers import DifficultyTiers
from lit_vlm.synthesis.judge_filter import JudgeFilter
from lit_vlm.synthesis.length_filter import LengthFilter
from lit_vlm.synthesis.pass_rate_filter import PassRateFilter
from lit_vlm.synthesis.phrase_filter import PhraseFilter
from tests.synthesis.curation_material import check_properties, random_sets

OPERATORS = [
    PassRateFilter(least=0.2, most=0.8),
    DifficultyTiers(keep=(1, 3)),
    DifficultyTiers(per_tier=2),
    CandidateFilter(),
    CandidateFilter(score=("length",), least=4, most=12),
    CandidateCap(2),
    CandidateCap(1, by="best"),
    CandidateCap(2, by="shortest", distinct=False),
    CandidateCap(1, by="random", each="correct"),
    Deduplicate(),
    Deduplicate(near=0.5, shingle=2),
    Deduplicate(of="candidates"),
    Deduplicate(of="candidates", near=0.6, shingle=2),
    BalanceCategories(),
    BalanceCategories(by="answer", ratio=1.5),
    BalanceCategories(by="difficulty", most=3),
    LengthFilter(least=2, most=3),
    LengthFilter(of="questions", unit="characters", most=12),
    PhraseFilter(("wait",)),
    PhraseFilter(("ONE", "two"), keep="any", of="questions"),
    JudgeFilter(),
    JudgeFilter(verdict=None, truthful=True, unjudged="keep"),
    JudgeFilter(verdict="wrong", least_score=0.5),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_it_only_leaves_out_keeps_the_order_and_is_done_after_once(operator):
    changed = 0
    for samples in random_sets():
        changed += check_properties(operator, samples) != samples
    assert changed > 3


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_what_it_keeps_does_not_depend_on_the_run(operator):
    for samples in random_sets(3):
        assert operator(samples) == type(operator)(**vars(operator))(list(samples))


def test_an_operator_without_reasons_gives_none(make_sample):
    class All(CurationOperator):
        def __call__(self, samples):
            return list(samples)

    sample = make_sample("", "7")
    assert All().with_reasons([sample]) == ([sample], {})


def test_a_draw_does_not_depend_on_the_rest_of_the_set(make_sample):
    samples = [make_sample("", "7", sample_id=f"s{number}") for number in range(20)]
    kinds = [number % 2 for number in range(20)]
    drawn = draw_of_each(samples, kinds, 3, seed=0)
    even = [place for place in range(20) if kinds[place] == 0]
    alone = draw_of_each([samples[place] for place in even], [0] * 10, 3, seed=0)
    assert [drawn[place] for place in even] == alone
    assert sum(drawn) == 6
    assert drawn != draw_of_each(samples, kinds, 3, seed=1)
    assert draw_of_each(samples, kinds, None, seed=0) == [True] * 20


def test_an_emptied_sample_may_stay(graded, candidate):
    left_out = Counter()
    assert filter_candidates([graded(candidate("a"))], lambda _: "candidates", left_out) == []
    (kept,) = filter_candidates([graded(candidate("a"))], lambda _: "candidates", left_out, keep_emptied=True)
    assert kept.candidates == ()
    assert left_out == {"candidates": 2, "samples of which no candidate is left": 1}


def test_a_sample_that_had_no_candidates_is_passed_by(graded):
    assert len(filter_candidates([graded()], lambda _: "candidates", Counter())) == 1


def test_the_first_at_fault_is_named_and_the_others_counted(make_sample):
    samples = [make_sample("", "7", sample_id=name) for name in "abc"]
    with pytest.raises(UserError, match=r"^b \(and 1 more\) has no grade; give one$"):
        refuse_if_any(samples[1:], "has no grade", "give one")
    refuse_if_any([], "has no grade", "give one")
