import math

import pytest
import torch

from lit_vlm.advantages.group_filter import GroupFilter
from lit_vlm.interfaces.errors import UserError
from tests.advantages.material import make_rewards

# The card's Check.
CORRECT = torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0])
GROUPS = torch.arange(4).repeat_interleave(4)


def kept(group_filter, rewards, groups=GROUPS):
    rows = group_filter(rewards, groups)
    return sorted(set(groups[rows].tolist())), rows


@pytest.mark.parametrize(
    ("group_filter", "expected"),
    [(GroupFilter(), [1, 3]), (GroupFilter(rule="range", low=0.3, high=0.99), [3])],
)
def test_the_check_of_the_card_is_reproduced(group_filter, expected):
    # The total reward differs everywhere, and must not count.
    rewards = make_rewards(torch.rand(16), details={"correct": CORRECT})
    groups, rows = kept(group_filter, rewards)
    assert groups == expected
    assert rows.sum() == 4 * len(expected)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    mixed = make_rewards(torch.rand(16), details={"correct": CORRECT[order]})
    assert torch.equal(group_filter(mixed, GROUPS[order]), rows[order])


def test_the_bounds_of_a_range_are_excluded():
    rewards = make_rewards([0.0, 0.5, 1.0, 1.0], details={})
    groups = torch.tensor([0, 0, 1, 1])
    assert kept(GroupFilter("a", "range", 0.25, 1.0), rewards, groups)[0] == []
    assert kept(GroupFilter("a", "range", 0.2, 1.1), rewards, groups)[0] == [0, 1]


def test_completions_without_a_score_do_not_count():
    rewards = make_rewards([1.0, math.nan, 1.0, 0.0, math.nan, math.nan])
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    assert kept(GroupFilter("a"), rewards, groups)[0] == [1]
    assert kept(GroupFilter("a", "range", -1.0, 2.0), rewards, groups)[0] == [0, 1]


def test_scores_are_found_by_function_detail_or_total():
    parts = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    rewards = make_rewards(parts, details={"a/correct": torch.tensor([5.0, 6.0]), "b/length": torch.tensor([7.0, 8.0])})
    assert GroupFilter("reward").scores(rewards).tolist() == [3, 7]
    assert GroupFilter("b").scores(rewards).tolist() == [2, 4]
    assert GroupFilter("a/correct").scores(rewards).tolist() == [5, 6]
    assert GroupFilter("correct").scores(rewards).tolist() == [5, 6]


def test_a_missing_or_ambiguous_metric_is_named_with_those_there_are():
    details = {"x/correct": torch.zeros(2), "y/correct": torch.zeros(2)}
    rewards = make_rewards([0.0, 1.0], details=details)
    with pytest.raises(UserError, match="'accuracy', which no reward gives; there are reward, a, x/correct, y/correct"):
        GroupFilter("accuracy").scores(rewards)
    with pytest.raises(UserError, match="'correct', which several rewards give"):
        GroupFilter().scores(rewards)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"rule": "std"}, "rule is 'std'"), ({"low": 0.9, "high": 0.9}, "low is 0.9 and high 0.9")],
)
def test_a_wrong_setting_is_named(settings, told):
    with pytest.raises(UserError, match=told):
        GroupFilter(**settings)
