import math

import pytest
import torch

from lit_vlm.functional.returns import discounted_returns, token_rewards

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def test_a_completion_s_reward_falls_on_its_last_token():
    per_token = torch.tensor([[0.25, 0.0, -0.5, 9.0], [0.0, 1.0, math.nan, 9.0]])
    spread = token_rewards(torch.tensor([1.0, -0.5]), per_token, MASK)
    assert spread.tolist() == [[0.25, 0, 0.5, 0], [0, 0.5, 0, 0]]
    assert token_rewards(torch.tensor([1.0, -0.5]), None, MASK).tolist() == [[0, 0, 1, 0], [0, -0.5, 0, 0]]


def test_the_last_token_that_counts_may_follow_a_gap_and_may_be_missing():
    spread = token_rewards(torch.tensor([1.0, 2.0]), None, torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]]))
    assert spread.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(("discount", "first"), [(1.0, [1, 1, 1, 0]), (0.5, [0.25, 0.5, 1, 0]), (0.0, [0, 0, 1, 0])])
def test_returns_by_hand(discount, first):
    rewards = torch.tensor([[0, 0, 1.0, math.nan], [0, -0.5, math.inf, 7]])
    returns = discounted_returns(rewards, MASK, discount)
    assert returns[0].tolist() == first
    assert returns[1].tolist() == [-0.5 * discount, -0.5, 0, 0]


def test_both_ways_of_adding_up_agree():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    mask = torch.randint(2, (4, 9), generator=generator)
    torch.testing.assert_close(
        discounted_returns(rewards, mask, 1.0), discounted_returns(rewards, mask, 1 - 1e-13), rtol=0, atol=1e-10
    )


def test_a_gap_is_passed_over_without_a_discount():
    rewards, mask = torch.tensor([[0.2, 0.0, 9.0, 1.0]]), torch.tensor([[1, 1, 0, 1]])
    expected = discounted_returns(torch.tensor([[0.2, 0.0, 1.0]]), torch.ones(1, 3), 0.9)
    assert torch.equal(discounted_returns(rewards, mask, 0.9)[:, [0, 1, 3]], expected)


def test_no_tokens_have_no_returns():
    for discount in (1.0, 0.5):
        assert discounted_returns(torch.zeros(2, 0), torch.zeros(2, 0), discount).shape == (2, 0)
    assert token_rewards(torch.ones(2), None, torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0)
