import random

import pytest

from lit_vlm.data.batch_plans import LengthGroupedBatches, ShardedBatches, TokenBudgetBatches, padding_share

# Mixed lengths, as of short questions and long derivations with images.
LENGTHS = [random.Random(0).choice((20, 60, 300)) + random.Random(index).randrange(200) for index in range(3000)]


def fixed(rank=0, world_size=1, batch_size=4, seed=0, lengths=LENGTHS, **options):
    return ShardedBatches(len(lengths), batch_size, rank=rank, world_size=world_size, seed=seed, **options)


def grouped(rank=0, world_size=1, batch_size=4, seed=0, lengths=LENGTHS):
    return LengthGroupedBatches(lengths, batch_size, rank=rank, world_size=world_size, seed=seed)


def budget(rank=0, world_size=1, batch_size=None, seed=0, lengths=LENGTHS, most=2000):
    return TokenBudgetBatches(lengths, most, batch_size=batch_size, rank=rank, world_size=world_size, seed=seed)


PLANS = pytest.mark.parametrize("make", [fixed, grouped, budget])


@PLANS
def test_every_sample_comes_at_most_once_an_epoch_and_hardly_one_is_left_out(make):
    for epoch in range(3):
        served = sum(make().batches(epoch), [])
        assert len(set(served)) == len(served)
        assert len(served) >= 0.99 * len(LENGTHS)


@PLANS
def test_an_epoch_is_a_function_of_its_number_and_the_seed(make):
    plan = make()
    first = plan.batches(1)
    assert plan.batches(0) != first
    assert plan.batches(1) == make().batches(1) == first
    assert make(seed=1).batches(1) != first


@PLANS
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_all_ranks_take_the_same_steps_in_every_epoch_and_share_no_sample(make, world_size):
    plans = [make(rank, world_size) for rank in range(world_size)]
    assert len({len(plan) for plan in plans}) == 1
    for epoch in range(4):
        by_rank = [plan.batches(epoch) for plan in plans]
        assert {len(batches) for batches in by_rank} == {len(plans[0])}
        served = [index for batches in by_rank for batch in batches for index in batch]
        assert len(set(served)) == len(served)
        assert all(batch for batches in by_rank for batch in batches)


@PLANS
def test_single_batches_can_be_asked_for_in_any_order(make):
    plan = make()
    for epoch, number in ((2, 5), (0, 3), (2, 0), (1, len(plan) - 1)):
        assert plan.batch((epoch, number)) == make().batches(epoch)[number]


@PLANS
def test_a_pure_function_has_no_state(make):
    plan = make()
    plan.settle([(0, 4), (1, 0)])
    plan.restore(plan.state())
    assert plan.state() == {}
    assert plan.batch((0, 1)) == make().batches(0)[1]


@pytest.mark.parametrize("make", [fixed, grouped])
def test_ranks_share_the_batches_that_one_process_would_see(make):
    alone = make(batch_size=12).batches(1)
    for world_size in (2, 3):
        shared = [make(rank, world_size, batch_size=12 // world_size).batches(1) for rank in range(world_size)]
        for whole, *parts in zip(alone, *shared, strict=True):
            assert sorted(whole) == sorted(sum(parts, []))


def test_with_a_token_budget_ranks_share_what_one_process_would_accumulate():
    alone = [budget().batches(epoch) for epoch in range(3)]
    for world_size in (2, 4):
        for epoch in range(3):
            by_rank = [budget(rank, world_size).batches(epoch) for rank in range(world_size)]
            dealt = [batch for step in zip(*by_rank, strict=True) for batch in step]
            assert dealt == alone[epoch][: len(dealt)]


def test_batches_of_similar_length_pad_less_and_still_differ_from_epoch_to_epoch():
    random_share = padding_share(fixed().batches(0), LENGTHS)
    assert random_share > 0.25
    for make in (grouped, budget):
        plan = make()
        assert padding_share(plan.batches(0), LENGTHS) < random_share / 4
        together = {frozenset(batch) for batch in plan.batches(0)}
        assert not together & {frozenset(batch) for batch in plan.batches(1)}


@pytest.mark.parametrize("make", [grouped, budget])
def test_long_and_short_batches_come_in_no_order(make):
    longest = [max(LENGTHS[index] for index in batch) for batch in make().batches(0)]
    half = len(longest) // 2
    first, second = sum(longest[:half]) / half, sum(longest[half:]) / (len(longest) - half)
    assert abs(first - second) < 0.15 * first


@pytest.mark.parametrize(("most", "rows"), [(2000, None), (2000, 5), (519, None), (10**6, 16)])
def test_no_batch_exceeds_the_budget_or_the_number_of_rows(most, rows):
    plan = budget(batch_size=rows, most=most)
    filled = []
    for epoch in range(3):
        for batch in plan.batches(epoch):
            padded = len(batch) * max(LENGTHS[index] for index in batch)
            assert padded <= most
            assert rows is None or len(batch) <= rows
            filled.append(max(padded / most, len(batch) / rows if rows else 0))
    assert sum(filled) / len(filled) > 0.8


def test_a_budget_below_the_longest_sample_is_refused():
    with pytest.raises(ValueError, match=f"{max(LENGTHS)} tokens, more than the budget of {max(LENGTHS) - 1}"):
        budget(most=max(LENGTHS) - 1)
    assert len(budget(most=max(LENGTHS))) > 0


def test_samples_without_a_length_are_left_out():
    lengths = [None if index % 3 == 0 else length for index, length in enumerate(LENGTHS)]
    for make in (grouped, budget):
        served = sum(make(lengths=lengths).batches(0), [])
        assert served
        assert all(index % 3 for index in served)


def test_an_epoch_that_fills_fewer_batches_halves_some():
    # Long and short samples in pools of changing content: the number of batches changes with the order.
    lengths = [10 if index % 7 else 90 for index in range(700)]
    plans = [budget(lengths=lengths, most=100, seed=seed) for seed in range(6)]
    changes = [len(plan._filled(epoch)) - len(plan) for plan in plans for epoch in range(5)]
    assert min(changes) < 0 < max(changes)
    for plan in plans:
        for epoch in range(5):
            batches = plan.batches(epoch)
            assert len(batches) == len(plan)
            assert all(len(batch) * max(lengths[index] for index in batch) <= 100 for batch in batches)


def test_a_last_batch_that_is_not_full_is_left_out():
    for make in (fixed, grouped):
        assert len(make(lengths=[9] * 5, batch_size=2)) == len(make(lengths=[9] * 5, batch_size=2).batches(0)) == 2
        assert len(make(lengths=[9] * 7, batch_size=2, world_size=2)) == 1


def test_whole_batches_are_shuffled_where_runs_belong_together():
    batches = fixed(lengths=[1] * 12, batch_size=2, shuffle_batches=True).batches(0)
    assert sorted(batches) == [[start, start + 1] for start in range(0, 12, 2)]
    assert batches != sorted(batches)


@PLANS
def test_no_samples_make_no_batches(make):
    assert len(make(lengths=[])) == 0
    assert make(lengths=[]).batches(0) == []
