import random

import pytest

from lit_vlm.functional.distributions import distribution, spread_evenly


def test_a_small_set_by_hand():
    spread = distribution([3, 1, 2, 10])
    assert (spread.count, spread.total, spread.minimum, spread.median, spread.maximum) == (4, 16, 1, 2.5, 10)
    assert spread.percentile_95 == 10
    assert [(item.low, item.count) for item in spread.bins if item.count] == [(1, 1), (2, 1), (3, 1), (10, 1)]


def test_the_percentile_covers_95_of_100():
    assert distribution(list(range(1, 101))).percentile_95 == 95
    assert distribution([7]).percentile_95 == 7


@pytest.mark.parametrize("most_bins", [2, 3, 12])
@pytest.mark.parametrize("scale", [1, 13, 1000, 10**6])
def test_bins_hold_every_value_once(scale, most_bins):
    stream = random.Random(scale)
    values = [stream.randrange(scale + 1) + stream.randrange(5) * scale for _ in range(200)]
    bins = distribution(values, most_bins).bins
    assert len(bins) <= most_bins
    for item in bins:
        assert item.count == sum(item.low <= value <= item.high for value in values)
    assert sum(item.count for item in bins) == len(values)
    assert all(before.high + 1 == after.low for before, after in zip(bins, bins[1:], strict=False))


def test_equal_values_fill_one_bin_and_none_give_nothing():
    assert [(item.low, item.high, item.count) for item in distribution([16] * 5).bins] == [(16, 16, 5)]
    assert distribution([]) is None


@pytest.mark.parametrize(("total", "count"), [(10, 3), (3, 10), (1000, 999), (5, 5), (0, 4), (4, 0)])
def test_positions_are_spread_over_all(total, count):
    positions = spread_evenly(total, count)
    assert len(positions) == min(total, count)
    assert positions == sorted(set(positions))
    assert all(0 <= position < total for position in positions)
    gaps = [after - before for before, after in zip(positions, positions[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1
