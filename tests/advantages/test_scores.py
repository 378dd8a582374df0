import math

import pytest
import torch

from lit_vlm.advantages.scores import check_groups, completion_scores, group_figures, on_device_of, over_tokens
from lit_vlm.functional.groups import group_statistics
from lit_vlm.interfaces.errors import UserError
from tests.advantages.material import alone, make_rewards, make_rollouts


def test_figures_count_groups_once():
    # Groups of 4 (equal), 2 (one unscorable), 2 (deviation sqrt(.5)).
    scores = torch.tensor([1.0, 1, 1, 1, 2, math.nan, 0, 1])
    groups = group_statistics(scores, torch.tensor([5, 5, 5, 5, 7, 7, 6, 6]))
    assert group_figures(groups, scores, alone) == pytest.approx(
        {"equal_groups": 1 / 3, "lone_groups": 1 / 3, "unscorable": 1 / 8, "group_deviation": math.sqrt(0.5) / 3}
    )


def test_figures_of_nothing_are_zero():
    empty = torch.zeros(0)
    assert set(group_figures(group_statistics(empty, empty.long()), empty, alone).values()) == {0}


def test_one_group_of_two_is_enough():
    check_groups(group_statistics(torch.zeros(3), torch.tensor([0, 0, 1])), "X", "do y")
    with pytest.raises(UserError, match="X compares completions of the same prompt, .* or do y"):
        check_groups(group_statistics(torch.zeros(2), torch.tensor([0, 1])), "X", "do y")


def test_rewards_of_tokens_must_fit_the_mask():
    rollouts = make_rollouts([2, 1], [0, 0])
    on_device_of(make_rewards([0.0, math.nan], per_token=torch.zeros(2, 2)), rollouts)
    with pytest.raises(UserError, match=r"per_token has shape \(2, 3\)"):
        on_device_of(make_rewards([0.0, 1.0], per_token=torch.zeros(2, 3)), rollouts)
    with pytest.raises(UserError, match=r"weights has shape \(1,\)"):
        on_device_of(make_rewards([[0.0, 1.0]] * 2, weights=[1.0]), rollouts)


def test_a_reward_of_a_token_that_is_not_finite_is_refused_unless_masked():
    rollouts = make_rollouts([2, 1], [0, 0])
    per_token = torch.tensor([[0.5, 0.25], [1.0, math.nan]])
    rewards = on_device_of(make_rewards([1.0, math.nan], per_token=per_token), rollouts)
    scores = completion_scores(rewards, rollouts.mask)
    assert scores[0].item() == 1.75
    assert scores[1].isnan()
    with pytest.raises(UserError, match="one of the rewards a gave a token a reward that is not finite"):
        on_device_of(make_rewards([1.0, 2.0], per_token=per_token.flip(1)), rollouts)


def test_values_go_to_the_tokens_that_count():
    spread = over_tokens(torch.tensor([1.5, -2.0]), torch.tensor([[1, 0, 1], [0, 0, 0]]), torch.float32)
    assert spread.tolist() == [[1.5, 0, 1.5], [0, 0, 0]]
