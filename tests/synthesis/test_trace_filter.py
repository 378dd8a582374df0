import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.trace_filter import TraceFilter


def test_the_first_good_and_the_first_bad_trace_with_a_fitting_box_are_taken() -> None:
    assert TraceFilter()([(0.9, 0.7), (0.9, 0.9), (0.1, 0.3), (0.1, 0.1)]) == (1, 3)
    assert TraceFilter()([(0.1, 0.1), (0.1, 0.0), (0.9, 0.8), (0.9, 1.0)]) == (2, 0)


@pytest.mark.parametrize(
    "scores",
    [
        [],
        [(0.7, 0.7), (0.7, 0.9), (0.1, 0.3), (0.1, 0.1)],  # the best answer is not good enough
        [(0.9, 0.9), (0.3, 0.1)],  # the worst is not bad enough
        [(0.9, 0.7), (0.1, 0.1)],  # no box is good
        [(0.9, 0.9), (0.1, 0.3)],  # no box is bad
        [(1.0, 0.7), (0.9, 0.9), (0.1, 0.1)],  # the good box belongs to the second best answer
        [(1.0, 1.0), (1.0, 0.0)],
    ],
)
def test_traces_that_do_not_differ_enough_give_nothing(scores) -> None:
    assert TraceFilter()(scores) is None


def test_the_thresholds_themselves_count() -> None:
    assert TraceFilter()([(0.8, 0.8), (0.2, 0.2)]) == (0, 1)
    assert TraceFilter(lowest_answer=0.5, highest_answer=0.5)([(0.5, 1.0), (0.5, 0.0)]) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"good_box": 1.5}, "good_box is 1.5"), ({"lowest_answer": 0.9, "highest_answer": 0.8}, "above highest_answer")],
)
def test_thresholds_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(UserError, match=message):
        TraceFilter(**settings)
