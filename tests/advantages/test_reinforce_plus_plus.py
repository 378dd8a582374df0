import math

import pytest
import torch

from lit_vlm.advantages.reinforce_plus_plus import ReinforcePlusPlus
from lit_vlm.interfaces.errors import UserError
from tests.advantages.material import Ranks, estimate


def test_the_check_of_the_card_is_reproduced():
    # Token rewards [0, 0, 1] and [0, -.5]: the total falls on the last token.
    advantages = estimate(ReinforcePlusPlus(), torch.tensor([1, -0.5], dtype=torch.float64), [0, 1], [3, 2])
    assert advantages.values[0].tolist() == pytest.approx([0.730297] * 3, abs=1e-6)
    assert advantages.values[1].tolist() == pytest.approx([-1.095445, -1.095445, 0], abs=1e-6)
    assert advantages.figures == pytest.approx(
        {"return_mean": 0.4, "return_deviation": math.sqrt(0.675), "unscorable": 0}
    )
    assert advantages.is_informative.all()


def test_token_rewards_are_credited_to_the_tokens_before_them():
    # Returns: row 0 [1, .75, 1], as .25 falls on token 0, -.25 on token 1 and 1 on the last; row 1 [0].
    per_token = torch.tensor([[0.25, -0.25, 0], [0, 0, 0]])
    values = estimate(ReinforcePlusPlus(), [1.0, 0.0], [0, 1], [3, 1], per_token=per_token).values
    assert values[0, 0] == values[0, 2] > values[0, 1] > values[1, 0]


def test_a_discount_makes_early_tokens_matter_less():
    values = estimate(ReinforcePlusPlus(discount=0.5), [1.0, 0.0], [0, 1], [3, 3]).values
    assert values[0, 0] < values[0, 1] < values[0, 2]
    # Returns [.25, .5, 1, 0, 0, 0]: mean .29167, so whitening puts .5 / .25 as it should.
    gaps = values[0].diff()
    assert (gaps[1] / gaps[0]).item() == pytest.approx(2)


def test_unscorable_completions_are_left_out():
    with_them = estimate(ReinforcePlusPlus(), [1.0, math.nan, -0.5], [0, 1, 2], [3, 3, 2])
    without = estimate(ReinforcePlusPlus(), [1.0, -0.5], [0, 1], [3, 2])
    assert (with_them.values[1] == 0).all()
    assert torch.equal(with_them.values[[0, 2]], without.values)
    assert with_them.is_informative.tolist() == [True, False, True]
    assert with_them.figures["unscorable"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("rewards", [[0.7] * 7, [math.nan] * 7])
def test_a_batch_without_differences_gives_no_advantage(rewards):
    advantages = estimate(ReinforcePlusPlus(), rewards, list(range(7)), [5, 3, 1, 1, 2, 5, 4])
    assert (advantages.values == 0).all()
    assert not advantages.is_informative.any()


def test_two_ranks_equal_one_and_order_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(9, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 7, (9,), generator=generator)
    groups = torch.arange(9)
    estimator = ReinforcePlusPlus(discount=0.9)

    def work(rows):
        return lambda summed: estimate(
            estimator, rewards[rows], groups[rows].tolist(), lengths[rows].tolist(), sum_over_ranks=summed
        )

    whole = work(slice(None))(lambda value: value)
    for part, rows in zip(Ranks(2).run(work(slice(0, 2)), work(slice(2, 9))), (slice(0, 2), slice(2, 9)), strict=True):
        torch.testing.assert_close(part.values, whole.values[rows, : part.values.shape[1]])
        assert part.figures == pytest.approx(whole.figures)
    order = torch.randperm(9, generator=generator)
    torch.testing.assert_close(work(order)(lambda value: value).values, whole.values[order])


def test_one_completion_a_prompt_is_enough_and_a_wrong_discount_is_named():
    assert not ReinforcePlusPlus().needs_groups
    with pytest.raises(UserError, match=r"discount is 1.1; it must lie in \[0, 1\]"):
        ReinforcePlusPlus(discount=1.1)
