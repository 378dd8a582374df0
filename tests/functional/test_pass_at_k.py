from itertools import combinations
from math import comb

import pytest

from lit_vlm.functional.pass_at_k import Share, expansion_report, mean_pass_at_k, pass_at_k
from lit_vlm.interfaces.errors import UserError


def outcomes(rows):
    return {f"s{place}": [bool(item) for item in row] for place, row in enumerate(rows)}


def test_the_values_of_the_card():
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=1e-6)
    assert pass_at_k(10, 8, 5) == 1.0
    assert pass_at_k(10, 0, 5) == 0.0


def test_it_is_the_share_of_all_draws_that_hold_a_right_completion():
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([place < c for place in range(n)], k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_large_numbers_stay_within_floats():
    assert pass_at_k(1024, 1, 512) == pytest.approx(0.5)
    assert pass_at_k(100_000, 3, 256) == pytest.approx(1 - comb(99_997, 256) / comb(100_000, 256))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (0, 0, 1), (4, 5, 1), (4, -1, 1)])
def test_impossible_numbers_are_refused(n, c, k):
    with pytest.raises(ValueError, match=r"give 1 to|must be 0 to"):
        pass_at_k(n, c, k)


def test_the_mean_over_samples_has_an_interval():
    share = mean_pass_at_k([[True, False], [False, False]], 1)
    assert (share.value, share.samples) == (0.25, 2)
    assert 0 < share.low < 0.25 < share.high < 1
    assert mean_pass_at_k([[True, False], [False, False]], 2).value == 0.5
    assert mean_pass_at_k([], 1) == Share(0.0, 0.0, 1.0, 0)
    assert Share.of([0.1] * 10 + [1.0] * 90).high <= 1


def test_the_comparison_of_the_card():
    base, post = outcomes([[1], [1], [0], [0], [0]]), outcomes([[1], [0], [1], [0], [0]])
    report = expansion_report(post, base, k=1)
    assert (report.expansion, report.shrinkage, report.preservation) == ({"s2"}, {"s1"}, {"s0"})
    assert report.pass_at_k == pytest.approx(0.4)
    assert report.expansion_rate == pytest.approx(0.2)
    assert report.unsolved_expansion_rate == pytest.approx(0.333333, abs=1e-6)


def test_only_the_first_k_completions_count():
    model, base = outcomes([[0, 1], [1, 1]]), outcomes([[0, 0, 1], [1, 0, 0]])
    assert expansion_report(model, base, k=1).expansion == frozenset()
    report = expansion_report(model, base, k=2)
    assert (report.expansion, report.preservation) == ({"s0"}, {"s1"})
    assert (report.consolidation, report.base_consolidation) == (1.0, 0.5)


def test_with_a_base_that_solves_nothing_expansion_is_pass_at_k():
    report = expansion_report(outcomes([[1], [0]]), outcomes([[0], [0]]), k=1)
    assert report.expansion_rate == report.pass_at_k == report.unsolved_expansion_rate == 0.5
    assert report.consolidation is None
    assert expansion_report(outcomes([[1]]), outcomes([[1]]), k=1).unsolved_expansion_rate is None


def test_models_that_were_asked_other_samples_are_not_compared():
    with pytest.raises(UserError, match=r"asked 1 samples and the base 2, and 1 are of one alone \('s1'\)"):
        expansion_report(outcomes([[1]]), outcomes([[1], [0]]), k=1)
    with pytest.raises(UserError, match="compare completions of the same samples"):
        expansion_report({}, {}, k=1)
    with pytest.raises(UserError, match="k is 2, but the base has fewer completions of sample 's0'"):
        expansion_report(outcomes([[1, 1]]), outcomes([[1]]), k=2)
    with pytest.raises(UserError, match="k is 0"):
        expansion_report(outcomes([[1]]), outcomes([[1]]), k=0)
