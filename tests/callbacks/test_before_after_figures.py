import io

import pytest
from rich.console import Console

from lit_vlm.callbacks.before_after_figures import OVERALL, Comparison, Figure, compare, comparison_table, read_figures

METRICS = {
    "loss": 1.0,
    "exact_match/sum": 0.25,
    "exact_match/sum_low": 0.125,
    "exact_match/sum_high": 0.5,
    "exact_match/sum_total": 8.0,
    "exact_match": 0.5,
    "exact_match_low": 0.25,
    "exact_match_high": 0.75,
    "exact_match_total": 16.0,
    "exact_match_by_type/number": 0.5,
    "well_formed": 0.75,
}


def test_figures_are_read_with_their_bounds_overall_first():
    figures = read_figures(METRICS, "exact_match")
    assert list(figures.items()) == [(OVERALL, Figure(0.5, 0.25, 0.75, 16)), ("sum", Figure(0.25, 0.125, 0.5, 8))]


def test_a_share_without_bounds_and_a_missing_one():
    assert read_figures(METRICS, "well_formed") == {OVERALL: Figure(0.75)}
    assert read_figures(METRICS, "f1") == {}


def test_a_task_named_like_a_bound_is_a_task():
    figures = read_figures({"exact_match": 0.5, "exact_match/count_total": 0.25}, "exact_match")
    assert list(figures) == [OVERALL, "count_total"]


@pytest.mark.parametrize(
    ("before", "after", "gain", "apart"),
    [
        (Figure(0.25, 0.2, 0.3), Figure(0.5, 0.4, 0.6), 25.0, True),
        (Figure(0.5, 0.4, 0.6), Figure(0.25, 0.2, 0.3), -25.0, True),
        (Figure(0.25, 0.1, 0.4), Figure(0.5, 0.4, 0.6), 25.0, False),  # 0.4 is in both
        (Figure(0.25), Figure(0.5, 0.4, 0.6), 25.0, None),
        (None, Figure(0.5, 0.4, 0.6), None, None),
        (Figure(0.5, 0.4, 0.6), None, None, None),
    ],
)
def test_gain_is_in_points_and_intervals_are_apart_where_they_share_no_value(before, after, gain, apart):
    comparison = Comparison("sum", before, after)
    assert comparison.gain_points == gain
    assert comparison.intervals_apart is apart


def test_tasks_of_either_side_are_compared():
    comparisons = compare({"a": Figure(0.1), "b": Figure(0.2)}, {"c": Figure(0.3), "a": Figure(0.4)})
    assert [(item.name, item.before is None, item.after is None) for item in comparisons] == [
        ("c", True, False),
        ("a", False, False),
        ("b", False, True),
    ]


def test_the_table_fits_a_plain_terminal_without_breaking_its_figures():
    figure = Figure(0.1234, 0.1, 0.15, 768)
    certain = Figure(1.0, 0.995, 1.0, 768)
    comparisons = [
        Comparison("same_or_different", figure, certain),
        Comparison("all_right", certain, certain),
        Comparison("new", None, None),
    ]
    output = io.StringIO()
    Console(file=output, width=80, force_terminal=False).print(comparison_table(comparisons, "exact match"))
    text = output.getvalue()
    assert "12.3 [10.0, 15.0]" in text
    assert "100.0 [99.5, 100.0]" in text
    assert "+87.7" in text
    assert "apart" in text
    assert "same_or_different" in text
    assert "overlap" in text
    assert "\x1b" not in text
    # A title, headings, a rule, three rows: nothing is wrapped.
    assert len(text.splitlines()) == 6
