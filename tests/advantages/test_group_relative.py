import dataclasses
import math

import pytest
import torch

from lit_vlm.advantages.group_relative import GroupRelative
from lit_vlm.advantages.leave_one_out import LeaveOneOut
from lit_vlm.advantages.reinforce_plus_plus_baseline import ReinforcePlusPlusBaseline
from lit_vlm.functional.groups import weighted_total
from lit_vlm.interfaces.errors import UserError
from tests.advantages.material import Ranks, alone, estimate, make_rewards, make_rollouts

# The card's Check, computed in float64.
REWARDS = torch.tensor([1.5, 0.5, 0, 1.5, 1, 1, 1, 1, 0, torch.nan], dtype=torch.float64)
GROUPS = [0] * 4 + [1] * 4 + [2] * 2
EVERY_FORM = [
    GroupRelative(),
    GroupRelative(scale="batch"),
    GroupRelative(scale="none"),
    GroupRelative(single="raw"),
    GroupRelative(normalize_then_sum=True),
]


def random_case(seed=0, groups=5, size=4, functions=2):
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(groups * size, functions, generator=generator, dtype=torch.float64)
    parts[1, 0] = torch.nan
    parts[2] = torch.nan
    lengths = torch.randint(1, 6, (groups * size,), generator=generator).tolist()
    group_of = torch.arange(groups).repeat_interleave(size).tolist()
    return parts, group_of, lengths


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("group", [0.833222, -0.499933, -1.166511, 0.833222]),
        ("batch", [1.117834, -0.6707, -1.564968, 1.117834]),
        ("none", [0.625, -0.375, -0.875, 0.625]),
    ],
)
def test_the_check_of_the_card_is_reproduced(scale, expected):
    advantages = estimate(GroupRelative(scale=scale), REWARDS, GROUPS)
    assert advantages.values[:, 0].tolist() == pytest.approx(expected + [0] * 6, abs=1e-6)
    assert advantages.is_informative.tolist() == [True] * 4 + [False] * 6
    assert advantages.figures["equal_groups"] == pytest.approx(1 / 3)
    assert advantages.figures["lone_groups"] == pytest.approx(1 / 3)
    assert advantages.figures["unscorable"] == pytest.approx(0.1)


@pytest.mark.parametrize("epsilon", [1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_of_equal_rewards_gives_no_advantage_whatever_rounding_does(scale, epsilon):
    rewards = torch.tensor([0.7] * 1001 + [0.0, 1.0], dtype=torch.float64)
    assert rewards[:1001].sum() / 1001 != rewards[0]
    advantages = estimate(GroupRelative(scale=scale, epsilon=epsilon), rewards, [0] * 1001 + [1] * 2)
    assert (advantages.values[:1001] == 0).all()
    assert (advantages.values[1001:] != 0).all()


def test_equal_groups_get_exactly_nothing_where_functions_are_normalised_first():
    parts = torch.randn(11, 2, generator=torch.Generator().manual_seed(0))
    parts[:4] = 0.7
    advantages = estimate(GroupRelative(normalize_then_sum=True), parts, [0] * 4 + [1] * 7)
    assert (advantages.values[:4] == 0).all()
    assert advantages.is_informative.tolist() == [False] * 4 + [True] * 7


def test_the_only_scorable_completion_gets_zero_or_its_reward():
    rewards = [0.25, math.nan, 1.0, 0.0]
    groups = [0, 0, 1, 1]
    assert estimate(GroupRelative(), rewards, groups).values[:2, 0].tolist() == [0, 0]
    raw = estimate(GroupRelative(single="raw"), rewards, groups)
    assert raw.values[:2, 0].tolist() == [0.25, 0]
    assert raw.is_informative.all()
    assert raw.values[2:].tolist() == estimate(GroupRelative(), rewards, groups).values[2:].tolist()


def test_one_completion_a_prompt_is_refused_unless_raw():
    with pytest.raises(UserError, match="each prompt has one; sample two or more of each prompt, or set single to raw"):
        estimate(GroupRelative(), [1.0, 0.0], [0, 1])
    assert GroupRelative().needs_groups
    assert not GroupRelative(single="raw").needs_groups
    assert estimate(GroupRelative(single="raw"), [1.0, 0.0], [0, 1]).values[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    "objective", EVERY_FORM, ids=lambda form: f"{form.scale}-{form.single}-{form.normalize_then_sum}"
)
class TestWhatAlwaysHolds:
    def test_order_of_completions_does_not_matter(self, objective):
        parts, group_of, lengths = random_case()
        whole = estimate(objective, parts, group_of, lengths)
        order = torch.randperm(len(group_of), generator=torch.Generator().manual_seed(1))
        mixed = estimate(
            objective, parts[order], torch.tensor(group_of)[order].tolist(), [lengths[row] for row in order]
        )
        torch.testing.assert_close(mixed.values, whole.values[order])
        assert torch.equal(mixed.is_informative, whole.is_informative[order])
        assert mixed.figures == pytest.approx(whole.figures)

    @pytest.mark.parametrize("cut", [4, 12, 20])
    def test_two_ranks_equal_one(self, objective, cut):
        parts, group_of, lengths = random_case()
        whole = estimate(objective, parts, group_of, lengths)

        def work(rows):
            return lambda summed: objective(
                make_rewards(parts[rows]), make_rollouts(lengths[rows], group_of[rows]), summed, {}
            )

        found = Ranks(2).run(work(slice(None, cut)), work(slice(cut, None)))
        for rows, part in zip((slice(None, cut), slice(cut, None)), found, strict=True):
            width = part.values.shape[1]
            torch.testing.assert_close(part.values, whole.values[rows, :width])
            assert part.figures == pytest.approx(whole.figures)

    def test_tokens_share_their_completion_s_advantage_and_padding_has_none(self, objective):
        parts, group_of, lengths = random_case()
        values = estimate(objective, parts, group_of, lengths).values
        for row, length in zip(values, lengths, strict=True):
            assert (row[:length] == row[0]).all()
            assert (row[length:] == 0).all()
        assert (values[2] == 0).all()
        assert values.isfinite().all()

    def test_groups_of_complete_rewards_sum_to_zero(self, objective):
        parts, group_of, _ = random_case()
        values = estimate(objective, parts[4:], group_of[4:]).values[:, 0]
        torch.testing.assert_close(values.view(-1, 4).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-8, rtol=0)

    def test_a_shift_of_all_rewards_changes_nothing(self, objective):
        parts, group_of, _ = random_case(functions=1)
        torch.testing.assert_close(
            estimate(objective, parts + 3, group_of).values, estimate(objective, parts, group_of).values
        )


def test_the_group_s_deviation_takes_the_scale_out_of_rewards():
    parts, group_of, _ = random_case()
    values = estimate(GroupRelative(epsilon=1e-12), parts, group_of).values
    torch.testing.assert_close(estimate(GroupRelative(epsilon=1e-12), 50 * parts, group_of).values, values)
    plain = estimate(GroupRelative(scale="none"), parts, group_of).values
    torch.testing.assert_close(estimate(GroupRelative(scale="none"), 50 * parts, group_of).values, 50 * plain)


def test_normalising_each_function_first_keeps_a_small_reward_from_being_drowned():
    # Function a is a hundred times as large; sums of the two rank as a does, and equal sums teach nothing.
    parts = torch.tensor([[100.0, 0.0], [0.0, 1.0], [100.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    summed = estimate(GroupRelative(), parts, [0] * 4).values[:, 0]
    assert summed[1] < -0.8
    # Normalised: a [.866, -.866, .866, -.866], b [-.866, .866, .866, -.866]; sums [0, 0, 1.732, -1.732]; their
    # deviation is sqrt(2).
    first = estimate(GroupRelative(normalize_then_sum=True, epsilon=1e-9), parts, [0] * 4).values[:, 0]
    assert first.tolist() == pytest.approx([0, 0, math.sqrt(1.5), -math.sqrt(1.5)], abs=1e-6)


def test_rewards_that_cancel_teach_only_where_they_are_normalised_first():
    parts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    assert not estimate(GroupRelative(), parts, [0] * 4).is_informative.any()
    weighted = estimate(GroupRelative(normalize_then_sum=True), parts, [0] * 4, weights=[1.0, 0.0])
    assert weighted.is_informative.all()
    assert weighted.values[0] > 0 > weighted.values[1]
    # A function of weight 0 tells nothing apart.
    assert not estimate(
        GroupRelative(normalize_then_sum=True), [[1.0, 0.0], [0.0, 0.0]], [0, 0], weights=[0.0, 1.0]
    ).is_informative.any()


def test_a_rank_without_completions_takes_part_in_the_sums():
    def nothing(summed):
        return GroupRelative(scale="batch")(make_rewards(torch.zeros(0, 1)), make_rollouts([], []), summed, {})

    def all_of_it(summed):
        return estimate(GroupRelative(scale="batch"), [1.0, 0.0], [0, 0], sum_over_ranks=summed)

    empty, full = Ranks(2).run(nothing, all_of_it)
    assert empty.values.shape == (0, 0)
    assert full.values[:, 0].tolist() == pytest.approx([0.70701, -0.70701], abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scale": "std"}, "scale is 'std'; it must be one of group, batch, none"),
        ({"single": "one"}, "single is 'one'; it must be one of zero, raw"),
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be above 0"),
        ({"epsilon": -1e-4}, "epsilon is -0.0001"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"normalize_then_sum": True, "scale": "batch"}, "normalize_then_sum goes with scale group"),
    ],
)
def test_a_wrong_setting_is_named(settings, told):
    with pytest.raises(UserError, match=told):
        GroupRelative(**settings)


def test_wrong_rewards_are_named():
    rollouts = make_rollouts([1, 1], [0, 0])
    with pytest.raises(UserError, match="the reward 'b' gave inf to completion 1"):
        GroupRelative()(make_rewards([[0.0, 1.0], [0.0, math.inf]]), rollouts, alone, {})
    with pytest.raises(UserError, match=r"total has shape \(3,\); 2 completions and 1 functions want \(2,\)"):
        GroupRelative()(make_rewards([0.0, 1.0, 2.0]), rollouts, alone, {})
    rewards = dataclasses.replace(make_rewards([0.0, 1.0]), total=torch.tensor([0.0, -math.inf]))
    with pytest.raises(UserError, match="weighted sum of the rewards a is infinite"):
        GroupRelative()(rewards, rollouts, alone, {})


def test_the_estimator_reads_the_total_that_it_is_given():
    rewards = make_rewards([[1.0, 0.0], [0.0, 1.0]], weights=[1.0, 0.5])
    assert torch.equal(rewards.total, weighted_total(rewards.parts, rewards.weights))
    values = GroupRelative(scale="none")(rewards, make_rollouts([1, 1], [0, 0]), alone, {}).values
    assert values[:, 0].tolist() == [0.25, -0.25]


@pytest.mark.parametrize("estimator", [GroupRelative(scale="none"), LeaveOneOut(), ReinforcePlusPlusBaseline()])
def test_rewards_of_tokens_count_for_their_completion(estimator):
    per_token = torch.tensor([[0.5, 0.25], [0.0, 9.0]])
    with_tokens = estimate(estimator, [0.25, 0.0], [0, 0], [2, 1], per_token=per_token)
    assert torch.equal(with_tokens.values, estimate(estimator, [1.0, 0.0], [0, 0], [2, 1]).values)
