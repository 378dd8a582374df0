import pytest
import torch

from lit_vlm.advantages.group_filter import GroupFilter
from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.group_sampling import (
    GroupSampling,
    WaitingGroups,
    join_rewards,
    join_rollouts,
    select_rewards,
)
from tests.advantages.material import alone, make_rewards, make_rollouts

DIFFERS = GroupFilter("reward")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uninformative": "forget"}, "give one of keep, drop, resample"),
        ({"when_exhausted": "wait"}, "give stop or train"),
        ({"max_rounds": 0}, "max_rounds is 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GroupSampling(**options)


def test_groups_that_differ_are_worth_it():
    # The groups of the card: all right, one right, none, three right.
    rewards = make_rewards([1.0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0])
    rollouts = make_rollouts([1] * 16, [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    assert GroupSampling().worthwhile(rewards, rollouts).tolist() == list(range(16))
    dropping = GroupSampling("drop", DIFFERS)
    assert dropping.worthwhile(rewards, rollouts).tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    ranging = GroupSampling("drop", GroupFilter("reward", "range", 0.3, 0.99))
    assert ranging.worthwhile(rewards, rollouts).tolist() == [12, 13, 14, 15]


def test_rewards_are_chosen_with_all_that_belongs_to_them():
    per_token = torch.arange(6.0).view(3, 2)
    rewards = make_rewards([1.0, 2, 3], per_token=per_token, details={"a/x": torch.tensor([4.0, 5, 6])})
    chosen = select_rewards(rewards, torch.tensor([2, 0]), 1)
    assert chosen.total.tolist() == [3, 1]
    assert chosen.parts.tolist() == [[3], [1]]
    assert chosen.details["a/x"].tolist() == [6, 4]
    assert chosen.per_token.tolist() == [[4], [0]]


def test_joined_rollouts_hold_what_the_parts_held():
    first = make_rollouts([2, 1], [0, 0])
    second = make_rollouts([3, 1, 2, 2], [0, 0, 1, 1])
    # Of the second batch only the second prompt is kept.
    second = second.select(torch.tensor([2, 3]))
    joined = join_rollouts(first.prompts, [first, second], padding_id=9)
    assert joined.prompt_of.tolist() == [0, 0, 1, 1]
    assert joined.mask.tolist() == [[1, 1], [1, 0], [1, 1], [1, 1]]
    assert [completion.text for completion in joined.completions] == ["0", "1", "2", "3"]
    longer = join_rollouts(first.prompts, [first, make_rollouts([3], [0])], padding_id=9)
    assert longer.token_ids.tolist() == [[1, 1, 9], [1, 0, 9], [1, 1, 1]]
    assert longer.entropies is None


def test_joined_rewards_lack_what_a_part_lacks():
    first = make_rewards([1.0, 2], details={"a/x": torch.tensor([5.0, 6])})
    second = make_rewards([3.0], per_token=torch.tensor([[7.0, 8]]))
    joined = join_rewards([first, second], 3)
    assert joined.total.tolist() == [1, 2, 3]
    assert joined.parts.tolist() == [[1], [2], [3]]
    torch.testing.assert_close(joined.details["a/x"], torch.tensor([5.0, 6, torch.nan]), equal_nan=True)
    assert joined.per_token.tolist() == [[0, 0, 0], [0, 0, 0], [7, 8, 0]]
    assert join_rewards([first, first], 3).per_token is None


def waiting(*totals, **options):
    store = WaitingGroups(GroupSampling("resample", DIFFERS, **options))
    for total in totals:
        count = len(total) // 2
        store.add(make_rollouts([1] * len(total), [row // 2 for row in range(2 * count)]), make_rewards(total))
    return store


def test_groups_wait_until_there_are_enough():
    store = waiting([1.0, 1, 0, 1])
    assert not store.are_enough(2, alone)
    assert len(store) == 1
    store.add(make_rollouts([1] * 4, [0, 0, 1, 1]), make_rewards([0.0, 1, 2, 3]))
    assert store.are_enough(2, alone)
    # Two prompts of each batch, the one that was left out among them.
    assert len(list(store.sample_ids)) == 4
    encoded = []
    rollouts, rewards, batches = store.take(
        2, lambda samples: encoded.append(len(samples)) or make_rollouts([1] * 3, [0, 1, 2]).prompts, 0
    )
    assert (encoded, batches, len(store)) == ([3], 2, 0)
    assert rollouts.prompt_of.tolist() == [0, 0, 1, 1]
    assert rewards.total.tolist() == [0, 1, 0, 1]


def test_a_single_batch_is_not_encoded_anew():
    store = waiting([0.0, 1, 0, 1])
    rollouts, _, batches = store.take(2, lambda samples: pytest.fail("encoded"), 0)
    assert batches == 1
    assert rollouts.prompt_of.tolist() == [0, 0, 1, 1]


def test_all_ranks_wait_for_the_one_that_lacks_groups():
    store = waiting([0.0, 1, 0, 1])
    assert store.are_enough(2, alone)
    assert not store.are_enough(2, lambda counts: counts + torch.tensor([1, 2, 1]))


def test_waiting_ends_with_an_error_or_with_what_there_is():
    with pytest.raises(UserError, match="1 batches .* gave 1 groups worth training on, of 2 wanted"):
        waiting([1.0, 1, 0, 1], max_rounds=1).are_enough(2, alone)
    store = waiting([1.0, 1, 0, 1], max_rounds=1, when_exhausted="train")
    assert store.are_enough(2, alone)
    assert store.take(2, list, 0).rewards.total.tolist() == [0, 1]


def test_dropping_never_waits():
    store = WaitingGroups(GroupSampling("drop", DIFFERS))
    store.add(make_rollouts([1] * 2, [0, 0]), make_rewards([1.0, 1]))
    assert store.are_enough(5, lambda counts: pytest.fail("asked"))
    rollouts, rewards, _ = store.take(5, list, 0)
    assert len(rollouts) == len(rewards.total) == 0
