import json
from collections import Counter

import pytest

from lit_vlm.data.batch_plans import ShardedBatches
from lit_vlm.data.steered_batches import SteeredBatches, Steering
from lit_vlm.interfaces.errors import UserError

SIZE = 60
LEVELS = {"1": list(range(0, 10)), "2": list(range(10, 30)), "3": list(range(30, SIZE))}
SAMPLES = {f"s{index}": [index] for index in range(SIZE)}
ARMS = {"difficulty": LEVELS, "sample": SAMPLES}
EVEN = {"1": 1.0, "2": 1.0, "3": 1.0}
# The 99.9th percentile of chi-square with two degrees of freedom.
MOST = 13.82


def level_of(index):
    return next(name for name, indices in LEVELS.items() if index in indices)


def plan(rank=0, world_size=1, batch_size=6, seed=0, **sharding):
    unsteered = ShardedBatches(SIZE, batch_size, rank=rank, world_size=world_size, seed=seed, **sharding)
    steering = Steering(lambda by: ARMS[by])
    return SteeredBatches(unsteered, steering), steering


def served(batches, epochs=1, start=0):
    return [batches.batch((epoch, number)) for epoch in range(start, start + epochs) for number in range(len(batches))]


@pytest.mark.parametrize("shuffle_batches", [False, True])
def test_without_steering_nothing_changes(shuffle_batches):
    for world_size in (1, 2):
        for rank in range(world_size):
            steered, _ = plan(rank, world_size, shuffle_batches=shuffle_batches)
            other = ShardedBatches(SIZE, 6, rank=rank, world_size=world_size, seed=0, shuffle_batches=shuffle_batches)
            assert len(steered) == len(other)
            assert served(steered, epochs=3) == sum((other.batches(epoch) for epoch in range(3)), [])
            steered.settle([(2, 0), (2, 1)])
            assert steered.state() == {}


@pytest.mark.parametrize("weights", [{"1": 6.0, "2": 3.0, "3": 1.0}, {"1": 1e-3, "2": 1e-3, "3": 2e-3}])
def test_shares_follow_the_probabilities_whatever_the_sizes_of_the_arms(weights):
    batches, steering = plan()
    steering.steer("difficulty", weights)
    drawn = Counter(level_of(index) for batch in served(batches, epochs=60) for index in batch)
    total, whole = sum(drawn.values()), sum(weights.values())
    assert total == 3600
    expected = {name: total * weight / whole for name, weight in weights.items()}
    assert sum((drawn[name] - count) ** 2 / count for name, count in expected.items()) < MOST
    # The test can fail: the arms' own sizes would not pass.
    sizes = {name: total * len(indices) / SIZE for name, indices in LEVELS.items()}
    assert sum((drawn[name] - count) ** 2 / count for name, count in sizes.items()) > 10 * MOST


def test_an_arm_without_probability_is_never_drawn():
    for weights in ({"2": 1.0}, {"1": 0.0, "2": 0.3, "3": 0.0}):
        batches, steering = plan()
        steering.steer("difficulty", weights)
        assert {level_of(index) for batch in served(batches, epochs=10) for index in batch} == {"2"}


def test_each_sample_of_an_arm_comes_once_before_any_comes_again_in_another_order():
    batches, steering = plan()
    steering.steer("difficulty", EVEN)
    drawn = [index for batch in served(batches, epochs=30) for index in batch]
    for indices in LEVELS.values():
        of_arm = [index for index in drawn if index in indices]
        turns = [of_arm[start : start + len(indices)] for start in range(0, len(of_arm), len(indices))][:-1]
        assert len(turns) > 10
        assert all(sorted(turn) == indices for turn in turns)
        assert len({tuple(turn) for turn in turns}) == len(turns)


def test_probabilities_may_change_at_any_time_and_arms_go_on_where_they_were():
    batches, steering = plan()
    order = []
    for number, weights in enumerate(({"1": 1.0}, {"2": 1.0}, {"1": 3.0})):
        steering.steer("difficulty", weights)
        order.append(batches.batch((0, number)))
        if number == 1:
            steering.steer("sample", {"s5": 1.0})
            assert batches.batch((0, 9)) == [5] * 6
    assert {level_of(index) for index in order[1]} == {"2"}
    # Twelve of the ten samples of level 1: the first ten differ.
    assert sorted((order[0] + order[2])[:10]) == LEVELS["1"]


def test_ranks_share_what_one_process_would_draw():
    def global_batches(world_size):
        ranks = []
        for rank in range(world_size):
            batches, steering = plan(rank, world_size, batch_size=6 // world_size)
            ranks.append(served(batches))
            steering.steer("difficulty", {"1": 2.0, "3": 1.0})
            ranks[-1] += served(batches, epochs=2, start=1)
        return [[part for parts in zip(*step, strict=True) for part in parts] for step in zip(*ranks, strict=True)]

    alone = global_batches(1)
    assert len(alone) == 30
    assert global_batches(2) == global_batches(3) == global_batches(6) == alone


def test_another_seed_draws_otherwise():
    first, second = plan(), plan(seed=1)
    for _, steering in (first, second):
        steering.steer("difficulty", EVEN)
    assert served(first[0]) != served(second[0])


def test_what_is_settled_stays_and_the_next_batch_obeys():
    batches, steering = plan()
    unsteered, _ = plan()
    batches.settle([(0, 0), (0, 1), (0, 2)])
    steering.steer("difficulty", {"1": 1.0})
    batches.settle([(0, number) for number in range(5)])
    steering.steer("difficulty", {"3": 1.0})
    assert [batches.batch((0, number)) for number in range(3)] == [unsteered.batch((0, number)) for number in range(3)]
    levels = [{level_of(index) for index in batches.batch((0, number))} for number in range(3, 6)]
    assert levels == [{"1"}, {"1"}, {"3"}]


def test_a_resumed_plan_goes_on_from_any_place_as_the_uninterrupted_one():
    """Five batches are decided ahead of the one that is used; the steering changes every three batches."""
    schedule = [("difficulty", {"1": 1.0, "2": 2.0}), ("difficulty", EVEN), ("sample", {"s3": 1.0, "s40": 1.0})]

    def run(batches, steering, start, stop):
        for number in range(start, stop):
            if number % 3 == 2:
                steering.steer(*schedule[number // 3 % 3])
            batches.settle([divmod(place, 10) for place in range(number, number + 6)])
            yield batches.batch(divmod(number, 10))

    whole = list(run(*plan(), 0, 25))
    for stop in range(25):
        batches, steering = plan()
        before = list(run(batches, steering, 0, stop))
        state = json.loads(json.dumps(batches.state()))  # plain data
        resumed = plan()
        resumed[0].restore(state)
        if not state:
            # Nobody had steered, so that what was ahead is what it would have been.
            resumed[0].settle([divmod(place, 10) for place in range(stop, stop + 5)])
        assert before + list(run(*resumed, stop, 25)) == whole


def test_what_an_earlier_run_decided_stays_however_little_this_one_reads_ahead():
    batches, steering = plan()
    steering.steer("difficulty", EVEN)
    batches.settle([(0, 0), (0, 1), (0, 2), (0, 3)])
    resumed, others = plan()
    resumed.restore(batches.state())
    others.steer("difficulty", {"1": 1.0})
    for number in range(4):
        resumed.settle([(0, number)])
        assert resumed.batch((0, number)) == batches.batch((0, number))
    assert {level_of(index) for index in resumed.batch((0, 4))} == {"1"}


def test_state_is_forgotten_with_the_batches():
    batches, steering = plan()
    steering.steer("difficulty", EVEN)
    for number in range(200):
        batches.settle([divmod(place, 10) for place in range(number, number + 3)])
        assert len(batches.state()["decided"]) == 3


@pytest.mark.parametrize(
    ("probabilities", "told"),
    [
        ({"1": 1.0, "7": 1.0}, "by difficulty '7', which no sample has; there are '1', '2', '3'"),
        ({"1": 0.0}, "all probabilities of difficulty are 0"),
        ({}, "all probabilities of difficulty are 0"),
        ({"1": -0.5}, "the probability of difficulty '1' is -0.5; give a number from 0 on"),
        ({"1": float("nan")}, "'1' is nan"),
        ({"1": float("inf")}, "'1' is inf"),
    ],
)
def test_impossible_probabilities_are_refused_and_change_nothing(probabilities, told):
    batches, steering = plan()
    steering.steer("difficulty", {"2": 1.0})
    with pytest.raises(UserError, match=told):
        steering.steer("difficulty", probabilities)
    assert {level_of(index) for index in batches.batch((0, 0))} == {"2"}


def test_many_arms_are_not_all_listed():
    _, steering = plan()
    with pytest.raises(UserError, match=r"'s9' and 50 more$"):
        steering.steer("sample", {"none": 1.0})


def test_a_state_of_other_batches_or_data_is_refused():
    batches, steering = plan()
    steering.steer("sample", {"s1": 1.0})
    batches.settle([(0, 0)])
    state = batches.state()
    with pytest.raises(UserError, match="drew 6 samples for a batch over all ranks, and this one draws 8"):
        plan(batch_size=4, world_size=2)[0].restore(state)
    state["steering"]["probabilities"] = {"s99": 1.0}
    with pytest.raises(UserError, match="'s99', which no sample has"):
        plan()[0].restore(state)
