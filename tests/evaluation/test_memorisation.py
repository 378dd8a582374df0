import math

import pytest

from lit_vlm.evaluation.memorisation import LiMem


def test_what_is_solved_only_as_seen_is_memorised():
    metric = LiMem()
    # 100 puzzles, 80 solved, the twins of 20 of those solved too: 0.8 x (1 - 20 / 80) = 0.6.
    metric.update([True] * 80 + [False] * 20, [True] * 20 + [False] * 60 + [True] * 20)
    result = metric.compute()
    assert result.score == pytest.approx(0.6)
    assert result.accuracy == pytest.approx(0.8)
    assert result.consistency == pytest.approx(0.25)
    assert (result.total, result.without_twin) == (100, 0)


def test_reasoning_that_carries_over_is_no_memory():
    metric = LiMem()
    metric.update([True, True, False], [True, True, False])
    assert metric.compute().score == 0.0
    assert metric.compute().consistency == 1.0


def test_a_missing_twin_counts_for_accuracy_alone():
    metric = LiMem()
    # Solved: 3 of 4; with a twin: 2 of these, one of them solved: 0.75 x (1 - 1 / 2) = 0.375.
    metric.update([True, True, True, False], [True, False, None, None])
    result = metric.compute()
    assert result.score == pytest.approx(0.375)
    assert result.consistency == pytest.approx(0.5)
    assert result.without_twin == 2


def test_where_nothing_is_solved_nothing_is_memorised():
    metric = LiMem()
    metric.update([False, False], [True, False])
    result = metric.compute()
    assert (result.score, result.accuracy) == (0.0, 0.0)
    assert math.isnan(result.consistency)


def test_without_a_twin_of_a_solved_puzzle_memory_is_unknown():
    metric = LiMem()
    metric.update([True, False], [None, True])
    result = metric.compute()
    assert result.accuracy == 0.5
    assert math.isnan(result.score)
    assert math.isnan(result.consistency)


def test_without_puzzles_all_is_unknown():
    metric = LiMem()
    metric.update([], [])
    result = metric.compute()
    assert all(math.isnan(share) for share in result[:3])
    assert (result.total, result.without_twin) == (0, 0)


def test_batches_and_ranks_add_up():
    pairs = [(True, True), (True, False), (False, None), (True, None), (False, True), (True, False)]
    whole, parts, other = LiMem(), LiMem(), LiMem()
    whole.update(*zip(*pairs, strict=True))
    for metric, share in ((parts, pairs[:2]), (parts, pairs[2:3]), (other, pairs[3:])):
        metric.update(*zip(*share, strict=True))
    parts.merge_state(other)
    assert tuple(whole.compute()) == pytest.approx(tuple(parts.compute()))


def test_a_reset_forgets():
    metric = LiMem()
    metric.update([True], [True])
    metric.reset()
    metric.update([False], [None])
    assert (metric.compute().total, metric.compute().without_twin) == (1, 1)


def test_another_number_of_twins_is_an_error():
    metric = LiMem()
    with pytest.raises(ValueError, match="there are 2 originals and 1 twins"):
        metric.update([True, True], [None])
