import json
import math

import pytest

from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.coefficient_search import GridSearch, LayerGroupSearch
from lit_vlm.paradigms.merge_trials import Factors, MeasuredFigure, MergeTrials, figure_table

GRID = GridSearch((0.5, 1.0))


def tried(*means, mode="max", unchanged=None, search=GRID):
    trials = MergeTrials(search, "exact_match", mode)
    trials.unchanged = None if unchanged is None else MeasuredFigure(unchanged)
    for mean in means:
        trials.add(trials.next_candidate, MeasuredFigure(mean, mean - 0.1, mean + 0.1, 40))
    return trials


def test_a_history_leads_to_the_next_candidate_and_to_the_best():
    assert tried().next_candidate == (0.5,)
    assert tried().best is None
    assert tried(0.4).next_candidate == (1.0,)
    assert tried(0.4, 0.6).next_candidate is None
    assert tried(0.4, 0.6).best == (1.0,)
    assert tried(0.4, 0.6, mode="min").best == (0.5,)


def test_the_model_as_it_is_wins_where_nothing_is_better():
    assert tried(0.4, 0.6, unchanged=0.6).best == (0.0,)
    assert tried(0.4, 0.6, unchanged=0.5).best == (1.0,)
    assert tried(0.4, 0.6, unchanged=0.3, mode="min").best == (0.0,)


def test_a_metric_that_is_no_number_never_wins():
    assert tried(math.nan, 0.1).best == (1.0,)
    assert tried(math.nan, 0.1, mode="min").best == (1.0,)


def test_what_a_checkpoint_keeps_continues_the_search():
    trials = tried(0.4, unchanged=0.2)
    other = MergeTrials(GRID, "exact_match", "max")
    other.restore(trials.state())
    assert other.next_candidate == trials.next_candidate == (1.0,)
    assert other.to_json() == trials.to_json()
    with pytest.raises(UserError, match=r"resume with the same model\.search"):
        MergeTrials(GridSearch((0.7,)), "exact_match", "max").restore(trials.state())


def test_the_record_is_strict_json():
    record = json.loads(json.dumps(tried(math.nan, 0.5).to_json(), allow_nan=False))
    assert record["trials"][0]["mean"] is None
    assert record["best"] == [1.0]


def test_factors_become_rules_for_all_weights_or_for_those_of_their_groups():
    assert Factors((0.5,)).rules == (CoefficientRule(None, 0.5),)
    assert Factors((0.5, 0.25), ("attn", "mlp")).rules == (CoefficientRule("attn", 0.5), CoefficientRule("mlp", 0.25))
    assert Factors.of(LayerGroupSearch(), (0.0, 0.0)) == Factors((0.0,))
    assert [Factors((-1.0,)).name, str(Factors((0.5, 1.0), ("attn", "mlp")))] == ["alpha_-1", "attn 0.5, mlp 1"]


def test_the_table_shows_intervals_and_marks_what_is_chosen():
    lines = tried(0.4, 0.6, unchanged=0.3).lines()
    assert lines[0] == "validation exact match on 40 samples, in % with 95 % intervals"
    assert [line.split()[0] for line in lines[1:]] == ["alpha", "0", "0.5", "1"]
    assert lines[-1].endswith("60.0 [50.0, 70.0]  <- chosen")
    assert sum("<- chosen" in line for line in lines) == 1


def test_a_figure_without_interval_is_written_as_it_is():
    assert figure_table("alpha", "loss", "test", [("0", MeasuredFigure(0.123456), True)])[-1].split()[:2] == [
        "0",
        "0.1235",
    ]


def test_a_metric_that_is_not_logged_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"model\.metric is 'wit'.*\['loss'\]"):
        MeasuredFigure.read({"loss": 1.0, "loss_low": 0.5}, "wit", "model.metric")
