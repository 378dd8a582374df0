import math

import pytest
import torch

from lit_vlm.advantages.leave_one_out import LeaveOneOut
from lit_vlm.interfaces.errors import UserError
from tests.advantages.material import Ranks, estimate


def test_the_check_of_the_card_is_reproduced():
    values = estimate(LeaveOneOut(), [1.0, 0.0, 0.5, 0.5], [0] * 4).values[:, 0]
    assert values.tolist() == pytest.approx([0.666667, -0.666667, 0, 0], abs=1e-6)


def test_each_completion_is_held_against_the_mean_of_the_others():
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = estimate(LeaveOneOut(), rewards, [0, 1] * 6).values[:, 0]
    for row in range(12):
        others = [rewards[other] for other in range(row % 2, 12, 2) if other != row]
        assert values[row].item() == pytest.approx((rewards[row] - sum(others) / 5).item())


def test_one_scorable_completion_gets_zero_and_is_counted():
    advantages = estimate(LeaveOneOut(), [1.0, math.nan, 1.0, 0.0], [0, 0, 1, 1])
    assert advantages.values[:, 0].tolist() == [0, 0, 1, -1]
    assert advantages.is_informative.tolist() == [False, False, True, True]
    assert advantages.figures["lone_groups"] == 0.5
    assert advantages.figures["unscorable"] == 0.25


def test_unscorable_completions_are_no_part_of_a_baseline():
    values = estimate(LeaveOneOut(), [1.0, math.nan, 0.0], [0] * 3).values[:, 0]
    assert values.tolist() == [1, 0, -1]


@pytest.mark.parametrize("normalize", [False, True])
def test_equal_rewards_give_no_advantage(normalize):
    rewards = torch.cat([torch.full((8,), 0.7), torch.randn(7, generator=torch.Generator().manual_seed(0))])
    values = estimate(LeaveOneOut(normalize=normalize), rewards, [0] * 8 + [1] * 7).values[:, 0]
    assert (values[:8] == 0).all()
    assert (values[8:] != 0).all()


def test_normalised_advantages_have_deviation_one_over_all_ranks():
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = [0] * 4 + [1] * 4 + [2] * 4
    whole = estimate(LeaveOneOut(normalize=True, epsilon=1e-12), rewards, groups)
    assert whole.values.std().item() == pytest.approx(1)
    assert whole.values.mean().item() == pytest.approx(0, abs=1e-12)

    def work(rows):
        return lambda summed: estimate(
            LeaveOneOut(normalize=True, epsilon=1e-12), rewards[rows], groups[rows], sum_over_ranks=summed
        )

    parts = Ranks(2).run(work(slice(0, 4)), work(slice(4, 12)))
    torch.testing.assert_close(torch.cat([part.values for part in parts]), whole.values)
    assert parts[0].figures == parts[1].figures == pytest.approx(whole.figures)


def test_lone_completions_are_no_part_of_the_deviation():
    known = estimate(LeaveOneOut(normalize=True), [1.0, 0.0, 0.25], [0] * 3).values[:, 0]
    values = estimate(LeaveOneOut(normalize=True), [1.0, 0.0, 0.25, 9.0, math.nan], [0] * 3 + [1] * 2).values[:, 0]
    assert torch.equal(values, torch.cat([known, torch.zeros(2)]))


def test_wrong_settings_and_single_completions_are_refused():
    with pytest.raises(UserError, match="epsilon is 0"):
        LeaveOneOut(epsilon=0)
    with pytest.raises(UserError, match="LeaveOneOut compares completions of the same prompt, but each prompt has one"):
        estimate(LeaveOneOut(), [1.0, 0.0], [0, 1])
    assert LeaveOneOut().needs_groups
    assert not LeaveOneOut().needs_reference
