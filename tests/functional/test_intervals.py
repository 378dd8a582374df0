from math import sqrt
from statistics import NormalDist

import pytest

from lit_vlm.functional.intervals import wilson_interval


def test_the_interval_agrees_with_values_worked_by_hand():
    # z = 1.959964, z^2 = 3.841459. 5 of 10: centre 0.5; reach = z sqrt(0.025 + z^2/400) / (1 + z^2/10)
    # = 1.959964 x sqrt(0.034604) / 1.384146 = 0.263407.
    assert wilson_interval(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    # 0 of 10: high = z^2/10 / (1 + z^2/10) = 0.384146 / 1.384146 = 0.277533.
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)


def test_both_bounds_lie_as_many_deviations_away_as_the_confidence_asks():
    # The definition: the bounds are the p with |successes/total - p| = z sqrt(p (1 - p) / total).
    for successes, total, confidence in [(1, 3, 0.9), (37, 40, 0.99), (500, 512, 0.95)]:
        deviations = NormalDist().inv_cdf((1 + confidence) / 2)
        for bound in wilson_interval(successes, total, confidence):
            reach = deviations * sqrt(bound * (1 - bound) / total)
            assert abs(successes / total - bound) == pytest.approx(reach)


def test_successes_and_failures_mirror_each_other():
    low, high = wilson_interval(3, 17)
    assert wilson_interval(14, 17) == pytest.approx((1 - high, 1 - low))


def test_more_rows_and_less_confidence_narrow_the_interval():
    def width(*arguments):
        low, high = wilson_interval(*arguments)
        return high - low

    assert width(50, 100) < width(5, 10)
    assert width(5, 10, 0.8) < width(5, 10, 0.95)


def test_the_ends_are_exact_and_no_rows_say_nothing():
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_impossible_counts_and_confidences_are_refused():
    for successes, total in [(3, 2), (-1, 2), (0, -1)]:
        with pytest.raises(ValueError, match="must be in 0 to the total"):
            wilson_interval(successes, total)
    for confidence in [0.0, 1.0, 95]:
        with pytest.raises(ValueError, match="above 0 and below 1"):
            wilson_interval(1, 2, confidence)


def test_shares_of_rows_lie_between_the_counts_around_them():
    low, high = wilson_interval(2.5, 10)
    assert wilson_interval(2, 10)[0] < low < wilson_interval(3, 10)[0]
    assert wilson_interval(2, 10)[1] < high < wilson_interval(3, 10)[1]
