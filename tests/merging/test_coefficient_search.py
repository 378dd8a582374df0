import math
from random import Random

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.coefficient_search import (
    CoefficientSearch,
    GoldenSection,
    GridSearch,
    LayerGroupSearch,
    Observation,
    best_of,
)

SEARCHES = [
    GridSearch((0.0, 1.0, 0.5)),
    GoldenSection(0.0, 2.0, evaluations=7, tolerance=0.0),
    LayerGroupSearch(("layers:0-1", "layers:2-3"), (0.0, 0.5, 1.0), rounds=3),
]


def run(search: CoefficientSearch, metric) -> list[Observation]:
    """Goes through a search as a paradigm does: asking anew after every observation."""
    history: list[Observation] = []
    while (candidate := search.next_candidate(history)) is not None:
        history.append(Observation(candidate, metric(*candidate)))
    return history


def test_a_grid_tries_its_values_in_their_order():
    history = run(GridSearch((1.0, 0.25, -1.0)), lambda alpha: -abs(alpha - 0.3))
    assert [observation.candidate for observation in history] == [(1.0,), (0.25,), (-1.0,)]
    assert best_of(history).candidate == (0.25,)


@pytest.mark.parametrize("peak", [0.05, 0.3, 0.7654, 1.4])
def test_the_golden_section_finds_the_peak_of_a_unimodal_metric(peak):
    history = run(GoldenSection(0.0, 1.5, evaluations=30, tolerance=1e-3), lambda alpha: 1 / (1 + (alpha - peak) ** 2))
    assert best_of(history).candidate[0] == pytest.approx(peak, abs=1.5e-3)


def test_the_golden_section_tries_each_inner_point_once():
    # low 0, high 1: 1 - 0.618034 = 0.381966 and 0.618034; the peak at 0 leaves [0, 0.618034], whose left point is
    # 0.618034 - 0.618034^2 = 0.236068, while 0.381966 serves again as its right one.
    history = run(GoldenSection(0.0, 1.0, evaluations=3, tolerance=0.0), lambda alpha: -alpha)
    assert [observation.candidate[0] for observation in history] == pytest.approx([0.381966, 0.618034, 0.236068])


@pytest.mark.parametrize(("evaluations", "tolerance"), [(2, 0.0), (5, 0.0), (50, 0.1), (50, 2.0), (4, 0.1)])
def test_the_golden_section_ends_by_evaluations_or_tolerance(evaluations, tolerance):
    search = GoldenSection(0.0, 1.0, evaluations=evaluations, tolerance=tolerance)
    count = len(run(search, lambda alpha: -abs(alpha - 0.4)))
    assert count == search.most_trials <= evaluations
    if count < evaluations:
        assert 0.618034 ** (count - 1) <= tolerance


def test_a_plateau_leads_the_golden_section_to_the_lower_coefficients():
    history = run(GoldenSection(0.0, 1.0, evaluations=12, tolerance=0.0), lambda alpha: 0.5)
    assert best_of(history).candidate == min(observation.candidate for observation in history)


def test_groups_find_coefficients_of_their_own():
    search = LayerGroupSearch(("layers:0-1", "layers:2-3", "norm"), (0.0, 0.5, 1.0))
    history = run(search, lambda shallow, deep, norm: -abs(shallow) - abs(deep - 1) - abs(norm - 0.5))
    assert best_of(history).candidate == (0.0, 1.0, 0.5)
    assert history[0].candidate == (1.0, 1.0, 1.0)
    for before, after in zip(history, history[1:], strict=False):
        assert sum(first != second for first, second in zip(before.candidate, after.candidate, strict=True)) <= 2


def test_further_rounds_mend_what_the_first_could_not_know():
    def metric(first, second):
        return {(1.0, 1.0): 1.0, (0.0, 1.0): 0.5, (1.0, 0.0): 2.0, (0.0, 0.0): 3.0}[first, second]

    once, twice = (run(LayerGroupSearch(("attn", "mlp"), (0.0, 1.0), rounds=rounds), metric) for rounds in (1, 2))
    assert best_of(once).candidate == (1.0, 0.0)
    assert best_of(twice).candidate == (0.0, 0.0)


def test_a_round_without_change_is_the_last():
    search = LayerGroupSearch(("attn", "mlp"), (0.0, 1.0), rounds=100)
    assert len(run(search, lambda first, second: first + second)) == 3


def test_a_group_that_gains_nothing_keeps_its_start():
    history = run(LayerGroupSearch(("attn",), (0.0, 2.0), start=1.0), lambda alpha: 0.5)
    assert [observation.candidate for observation in history] == [(1.0,), (0.0,), (2.0,)]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: type(search).__name__)
@pytest.mark.parametrize("seed", range(5))
def test_every_search_ends_on_a_noisy_metric_and_tries_nothing_twice(search, seed):
    def noise():
        random = Random(seed)
        return lambda *values: random.random()

    first, second = run(search, noise()), run(search, noise())
    assert first == second
    candidates = [observation.candidate for observation in first]
    assert len(set(candidates)) == len(candidates) <= search.most_trials
    assert best_of(first).score == max(observation.score for observation in first)


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: type(search).__name__)
def test_a_metric_that_is_no_number_is_the_worst(search):
    first = search.next_candidate([])
    history = run(search, lambda *values: math.nan if values == first else -abs(values[0] - 3))
    assert best_of(history).candidate != first


def test_of_equals_the_smallest_change_wins():
    history = [Observation((0.5, -1.0), 0.5), Observation((0.5, 0.5), 0.5), Observation((0.0, 0.0), 0.4)]
    assert best_of(history).candidate == (0.5, 0.5)


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: type(search).__name__)
def test_a_search_refuses_the_history_of_another(search):
    with pytest.raises(UserError, match=r"resume with the same model\.search"):
        search.next_candidate([Observation((17.0,) * max(1, len(search.groups)), 0.5)])


def test_a_search_that_is_over_refuses_more_history():
    with pytest.raises(UserError, match="where this one would be over"):
        GridSearch((1.0,)).next_candidate([Observation((1.0,), 0.5), Observation((2.0,), 0.5)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GridSearch(()), "GridSearch.values is empty"),
        (lambda: GridSearch((1.0, math.inf)), "must be finite"),
        (lambda: GridSearch((1.0, 0.5, 1.0)), "each coefficient once"),
        (lambda: GoldenSection(1.0, 1.0), "low must be finite and below high"),
        (lambda: GoldenSection(0.0, math.nan), "low must be finite and below high"),
        (lambda: GoldenSection(evaluations=1), "give at least 2"),
        (lambda: GoldenSection(tolerance=-0.1), "give 0 or more"),
        (lambda: LayerGroupSearch(()), "name at least one group"),
        (lambda: LayerGroupSearch(("attn", "attn")), "name each group once"),
        (lambda: LayerGroupSearch(values=()), "LayerGroupSearch.values is empty"),
        (lambda: LayerGroupSearch(start=math.inf), "give a finite number"),
        (lambda: LayerGroupSearch(rounds=0), "give at least 1"),
    ],
)
def test_settings_that_make_no_search_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
