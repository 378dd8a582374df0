import math

import pytest
import torch

from lit_vlm.advantages.group_relative import GroupRelative
from lit_vlm.advantages.kl_in_reward import KLInReward
from lit_vlm.advantages.leave_one_out import LeaveOneOut
from lit_vlm.advantages.reinforce_plus_plus import ReinforcePlusPlus
from lit_vlm.functional.returns import token_rewards
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import AdvantageEstimator
from lit_vlm.interfaces.rollouts import Advantages
from tests.advantages.material import Ranks, alone, make_rewards, make_rollouts

OLD = [[-1.0, -2.0, -0.5], [-1.0, -1.0, 0.0]]
REFERENCE = [[-1.1, -1.5, -0.5], [-1.0, -2.0, 9.0]]


class Recorder(AdvantageEstimator):
    """Keeps what it was given."""

    def __call__(self, rewards, rollouts, sum_over_ranks, coefficients):
        self.rewards = rewards
        return Advantages(torch.zeros(rollouts.mask.shape), rewards.total.isnan(), {"seen": 1.0})


def test_the_check_of_the_card_is_reproduced():
    # The shaped reward of the PPO card: divergences [.1, -.5, 0] at weight .1, score 1 at the end.
    recorder = Recorder()
    rollouts = make_rollouts([3, 2], [0, 0], OLD, REFERENCE)
    advantages = KLInReward(recorder)(make_rewards([1.0, 0.0]), rollouts, alone, {"kl": 0.1})
    seen = recorder.rewards
    assert seen.total.tolist() == [1, 0]
    spread = token_rewards(seen.total, seen.per_token, rollouts.mask)
    assert spread[0].tolist() == pytest.approx([-0.01, 0.05, 1], abs=1e-6)
    assert spread[1].tolist() == pytest.approx([0, -0.1, 0], abs=1e-6)
    # Divergences [.1, -.5, 0, 0, 1] of five tokens.
    assert advantages.figures == pytest.approx({"seen": 1.0, "reward_kl": 0.6 / 5})


def test_rewards_of_tokens_stay_and_unscorable_completions_remain_so():
    recorder = Recorder()
    rollouts = make_rollouts([3, 2], [0, 0], OLD, REFERENCE)
    given = make_rewards([1.0, math.nan], per_token=torch.ones(2, 3))
    KLInReward(recorder)(given, rollouts, alone, {"kl": 0.1})
    assert recorder.rewards.per_token[0].tolist() == pytest.approx([0.99, 1.05, 1])
    assert recorder.rewards.total[1].isnan()
    assert torch.equal(given.per_token, torch.ones(2, 3))


def test_normalising_functions_one_by_one_is_refused():
    rollouts = make_rollouts([3, 2], [0, 0], OLD, REFERENCE)
    with pytest.raises(UserError, match="normalize_then_sum goes by whole reward functions, .* put the divergence"):
        KLInReward(GroupRelative(normalize_then_sum=True))(make_rewards([1.0, 0.0]), rollouts, alone, {"kl": 0.1})


@pytest.mark.parametrize("estimator", [GroupRelative(scale="none"), LeaveOneOut(), ReinforcePlusPlus()])
def test_completions_that_leave_the_reference_gain_less(estimator):
    # Equal rewards; the first completion is likelier under the policy than under the reference.
    rollouts = make_rollouts([2, 2], [0, 0], [[-0.1, -0.1], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]])
    for weight in (0.0, 0.5):
        values = KLInReward(estimator)(make_rewards([1.0, 1.0]), rollouts, alone, {"kl": weight}).values
        assert (values[0] < values[1]).all() == (weight > 0)


def test_the_weight_is_read_at_the_call_and_extreme_padding_is_not():
    rollouts = make_rollouts([1, 1], [0, 0], [[-1.0], [-2.0]], [[-2.0], [-2.0]])
    part = KLInReward(GroupRelative(scale="none"), kl=0.3)
    assert part(make_rewards([0.0, 0.0]), rollouts, alone, {"kl": 1.0}).values[:, 0].tolist() == [-0.5, 0.5]
    wide = make_rollouts([2, 1], [0, 0], [[-1.0, -1.0], [-2.0, -math.inf]], [[-2.0, -1.0], [-2.0, math.nan]])
    values = part(make_rewards([0.0, 0.0]), wide, alone, {"kl": 1.0}).values
    assert values.tolist() == [[-0.5, -0.5], [0.5, 0]]


def test_two_ranks_log_the_same_divergence():
    whole = make_rollouts([3, 2], [0, 1], OLD, REFERENCE)
    rewards = make_rewards([1.0, 0.0])
    part = KLInReward(ReinforcePlusPlus())

    def work(row):
        own = torch.tensor([row])
        return lambda summed: part(make_rewards(rewards.total[own]), whole.select(own), summed, {"kl": 0.1})

    found = Ranks(2).run(work(0), work(1))
    expected = part(rewards, whole, alone, {"kl": 0.1})
    assert found[0].figures == found[1].figures == pytest.approx(expected.figures)
    torch.testing.assert_close(found[0].values, expected.values[:1])


def test_it_declares_what_it_needs():
    part = KLInReward(ReinforcePlusPlus(), kl=0.02, highest_kl=0.2)
    assert part.needs_reference
    assert not part.needs_groups
    assert KLInReward(LeaveOneOut()).needs_groups
    declared = part.coefficients()["kl"]
    assert (declared.value, declared.low, declared.high) == (0.02, 0, 0.2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kl": -0.1}, "kl is -0.1 and highest_kl 1.0"),
        ({"kl": 2.0}, "kl is 2.0 and highest_kl 1.0"),
        ({"kl": 0.0, "highest_kl": 0.0}, "highest_kl above 0"),
        ({"kl": math.nan}, "kl is nan"),
        ({"kl_estimator": "k4"}, "kl_estimator is 'k4'; it must be one of k1, k2, k3"),
        ({"estimator": KLInReward(LeaveOneOut())}, "name KLInReward once"),
    ],
)
def test_a_wrong_setting_is_named(settings, told):
    with pytest.raises(UserError, match=told):
        KLInReward(**{"estimator": LeaveOneOut(), **settings})


def test_a_missing_reference_is_named():
    with pytest.raises(UserError, match="no reference to compare with"):
        KLInReward(LeaveOneOut())(make_rewards([1.0, 0.0]), make_rollouts([1, 1], [0, 0]), alone, {"kl": 0.1})
