import multiprocessing
import os

import pytest
import torch
from torch import distributed

from lit_vlm.evaluation.exact_match import ExactMatch, Proportion
from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.errors import UserError

GROUPS = ["all", "sum", "compare", "number", "text"]
ROWS = [
    (["all", "sum", "number"], True),
    (["all", "sum", "number"], False),
    (["all", "sum", "number"], True),
    (["all", "compare", "number"], False),
]


def counted(rows):
    metric = ExactMatch(GROUPS)
    metric.update([groups for groups, _ in rows], [correct for _, correct in rows])
    return metric


def test_each_group_gives_its_own_share_with_an_interval():
    result = counted(ROWS).compute()
    # 2 of 3 sums, 0 of 1 comparisons, 2 of 4 in all.
    assert result["sum"] == Proportion(2 / 3, *wilson_interval(2, 3), total=3)
    assert result["compare"] == Proportion(0.0, *wilson_interval(0, 1), total=1)
    assert result["all"] == result["number"] == Proportion(0.5, *wilson_interval(2, 4), total=4)


def test_groups_without_rows_are_left_out_and_the_others_keep_their_order():
    assert list(counted(ROWS).compute()) == ["all", "sum", "compare", "number"]
    assert counted([]).compute() == {}


def test_two_metrics_merged_equal_one_over_all_rows():
    first, second = counted(ROWS[:1]), counted(ROWS[1:])
    first.merge_state(second)
    assert first.compute() == counted(ROWS).compute()


def test_updates_add_up_and_a_reset_forgets():
    metric = counted(ROWS[:1])
    metric.update([groups for groups, _ in ROWS[1:]], [correct for _, correct in ROWS[1:]])
    assert metric.compute() == counted(ROWS).compute()
    metric.reset()
    metric.update([["all"]], [True])
    assert metric.compute()["all"].total == 1


def test_a_group_named_twice_counts_a_row_once():
    assert counted([(["all", "all"], True)]).compute()["all"].total == 1


def test_the_confidence_sets_the_interval():
    metric = ExactMatch(["all"], confidence=0.8)
    metric.update([["all"]] * 3, [True, True, False])
    assert (metric.compute()["all"].low, metric.compute()["all"].high) == wilson_interval(2, 3, 0.8)


def test_an_unknown_group_is_named_and_nothing_is_counted():
    metric = counted(ROWS)
    with pytest.raises(UserError, match=r"unknown groups \['digits'\]; this metric was built with \['all', 'sum'"):
        metric.update([["all"], ["digits"]], [True, True])
    assert metric.compute() == counted(ROWS).compute()


def test_more_verdicts_than_rows_of_groups_are_refused():
    metric = counted(ROWS)
    with pytest.raises(ValueError, match="longer than argument 1"):
        metric.update([["all"]], [True, True])
    assert metric.compute() == counted(ROWS).compute()


@pytest.mark.parametrize("groups", [[], ["all", "all"]])
def test_missing_or_repeated_groups_are_refused(groups):
    with pytest.raises(UserError, match="name one or more groups, each once"):
        ExactMatch(groups)


def test_an_impossible_confidence_is_refused():
    with pytest.raises(UserError, match="confidence is 95"):
        ExactMatch(GROUPS, confidence=95)


def _count_on_rank(rank, store, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    # Rank 1 has no rows of its own: it must take part all the same.
    results.put(counted(ROWS if rank == 0 else []).compute())
    distributed.destroy_process_group()
    os._exit(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on, where threads run
def test_ranks_add_up_even_where_one_has_no_rows(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    ranks = [context.Process(target=_count_on_rank, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert results.get() == results.get() == counted(ROWS).compute()
