import math

import pytest
import torch

from lit_vlm.advantages.reinforce_plus_plus_baseline import ReinforcePlusPlusBaseline
from lit_vlm.interfaces.errors import UserError
from tests.advantages.material import Ranks, estimate


def test_the_check_of_the_card_is_reproduced():
    rewards = torch.tensor([1, 0, 0.5], dtype=torch.float64)
    values = estimate(ReinforcePlusPlusBaseline(), rewards, [0] * 3, [2, 1, 2]).values
    assert values[0].tolist() == pytest.approx([0.956183] * 2, abs=1e-6)
    assert values[1].tolist() == pytest.approx([-1.434274, 0], abs=1e-6)
    assert values[2].tolist() == pytest.approx([-0.239046] * 2, abs=1e-6)


def test_unscorable_and_lone_completions_are_left_out():
    rewards = [1.0, 0.0, math.nan, 5.0, math.nan]
    advantages = estimate(ReinforcePlusPlusBaseline(), rewards, [0, 0, 0, 1, 1], [2, 1, 3, 3, 1])
    known = estimate(ReinforcePlusPlusBaseline(), [1.0, 0.0], [0, 0], [2, 1])
    assert torch.equal(advantages.values[:2, :2], known.values)
    assert (advantages.values[2:] == 0).all()
    assert advantages.is_informative.tolist() == [True, True, True, False, False]
    assert advantages.figures["lone_groups"] == 0.5


def test_equal_rewards_everywhere_give_no_advantage():
    advantages = estimate(ReinforcePlusPlusBaseline(), [0.7] * 8, [0, 1] * 4, [3, 1, 4, 1, 5, 2, 6, 5])
    assert (advantages.values == 0).all()
    assert not advantages.is_informative.any()


def test_two_ranks_equal_one():
    rewards = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths, groups = [3, 1, 4, 1, 5, 2, 6, 5], [0, 0, 1, 1, 1, 2, 2, 2]

    def work(rows):
        return lambda summed: estimate(
            ReinforcePlusPlusBaseline(), rewards[rows], groups[rows], lengths[rows], sum_over_ranks=summed
        )

    whole = work(slice(None))(lambda value: value)
    for part, rows in zip(Ranks(2).run(work(slice(0, 2)), work(slice(2, 8))), (slice(0, 2), slice(2, 8)), strict=True):
        torch.testing.assert_close(part.values, whole.values[rows, : part.values.shape[1]])
        assert part.figures == pytest.approx(whole.figures)


def test_one_completion_a_prompt_is_refused():
    with pytest.raises(UserError, match="ReinforcePlusPlusBaseline compares .* or choose ReinforcePlusPlus"):
        estimate(ReinforcePlusPlusBaseline(), [1.0, 0.0], [0, 1])
