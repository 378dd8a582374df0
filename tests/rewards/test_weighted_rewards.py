import copy
import math
import sys
from dataclasses import dataclass

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.format_reward import FormatReward
from lit_vlm.rewards.function_reward import FunctionReward
from lit_vlm.rewards.weighted_rewards import RewardGate, RewardScale, WeightedReward, WeightedRewards

NAN = math.nan
TABLE = ((1.0, 1.0, 0.2), (1.0, 0.0, 0.4), (0.0, 1.0, None), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Column(Reward):
    """Gives fixed scores: those of one column of a table."""

    scores: tuple

    def __call__(self, completions, context=RewardContext()):
        return RewardOutput.of_scores(self.scores, {"twice": 2 * torch.ones(len(self.scores))})


@dataclass(frozen=True)
class Tokens(Reward):
    """Rewards every token by one."""

    def __call__(self, completions, context=RewardContext()):
        return RewardOutput(
            torch.zeros(len(completions)), per_token=tuple(torch.ones(len(ids)) for ids in context.token_ids)
        )


@dataclass(frozen=True)
class Fragile(Reward):
    """Raises at the text "bad"."""

    def __call__(self, completions, context=RewardContext()):
        if any(completion.text == "bad" for completion in completions):
            raise RuntimeError("broken")
        return RewardOutput(torch.ones(len(completions)))


def columns(*weights, table=TABLE, **options):
    return [
        WeightedReward(name, Column(tuple(row[place] for row in table)), weight, **options.get(name, {}))
        for place, (name, weight) in enumerate(zip("abc", weights, strict=True))
    ]


def test_the_card_s_sums(complete):
    rewards = WeightedRewards(columns(1.0, 0.5, 2.0)).score([complete()] * 4)
    assert rewards.total.tolist() == pytest.approx([1.9, 1.8, 0.5, 0])
    assert rewards.names == ("a", "b", "c")
    assert rewards.weights.tolist() == [1.0, 0.5, 2.0]
    assert rewards.parts[2].tolist()[:2] == [0, 1]
    assert rewards.parts[2, 2].isnan()
    assert rewards.details["b/twice"].tolist() == [2, 2, 2, 2]


def test_a_row_that_nothing_applies_to_is_unscorable():
    table = ((1.0, 0.5, None), (0.0, 1.0, 2.0), (None, None, None))
    rewards = WeightedRewards(columns(1.0, 0.5, 0.1, table=table)).score([None] * 3)
    assert rewards.total[:2].tolist() == pytest.approx([1.25, 0.7])
    assert rewards.total[2].isnan()


def test_weights_are_coefficients():
    rewards = WeightedRewards(columns(1.0, -0.5, 2.0))
    coefficients = Coefficients(rewards.coefficients())
    coefficients.set("reward/a", 10.0)
    turned = rewards.score([None] * 4, coefficients=coefficients)
    assert turned.weights.tolist() == [10.0, -0.5, 2.0]
    assert turned.total.tolist() == pytest.approx([9.9, 10.8, -0.5, 0])


def test_a_gate_shuts_a_reward_out_and_spreads_what_is_unknown():
    table = ((0.6, 1.0, 1.0), (0.5, 1.0, 1.0), (None, 1.0, 1.0))
    rewards = WeightedRewards(columns(0.0, 1.0, 1.0, table=table, b={"gate": RewardGate("a", above=0.5)}))
    parts = rewards.score([None] * 3).parts[:, 1]
    assert parts[:2].tolist() == [1, 0]
    assert parts[2].isnan()


def test_a_scale_maps_and_clips():
    scale = RewardScale(from_low=0.0, from_high=0.2, to_low=-1.0, to_high=1.0)
    table = ((0.1, 0.0, 0.0), (0.4, 0.0, 0.0), (-1.0, 0.0, 0.0))
    rewards = WeightedRewards(columns(1.0, 1.0, 1.0, table=table, a={"scale": scale}))
    assert rewards.score([None] * 3).parts[:, 0].tolist() == pytest.approx([0, 1, -1])
    assert RewardScale(to_high=10, clip=False)(torch.tensor([2.0])).item() == 20
    assert RewardScale(to_low=1, to_high=0)(torch.tensor([2.0, 0.25])).tolist() == [0, 0.75]


def test_rewards_of_tokens_are_weighted_gated_and_padded(complete):
    table = ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    items = [*columns(1.0, 1.0, 1.0, table=table), WeightedReward("tokens", Tokens(), 0.5, RewardGate("a"))]
    context = RewardContext(token_ids=((1, 2, 3), (4,)))
    rewards = WeightedRewards(items)
    assert rewards.score([complete()] * 2, context).per_token.tolist() == [[0.5, 0.5, 0.5], [0, 0, 0]]
    output = rewards([complete()] * 2, context)
    assert [len(row) for row in output.per_token] == [3, 1]


def test_as_one_reward_it_tells_its_parts(complete):
    output = WeightedRewards(columns(1.0, 0.5, 2.0))([complete()] * 4)
    assert output.total.tolist() == pytest.approx([1.9, 1.8, 0.5, 0])
    assert output.details["a"].tolist() == [1, 1, 0, 0]
    assert output.applies.all()


def test_a_reward_that_fails_stops_the_run(complete):
    rewards = WeightedRewards([WeightedReward("fragile", Fragile())])
    with pytest.raises(UserError, match="the reward 'fragile' raised RuntimeError: broken, on sample 'culprit'"):
        rewards.score([complete("good"), complete("bad", sample_id="culprit")])


def test_by_option_a_failure_makes_the_completion_unscorable_for_all_rewards_and_is_counted(complete):
    items = [WeightedReward("fragile", Fragile(), on_error="unscorable"), WeightedReward("format", FormatReward())]
    completions = [complete("good"), complete("bad"), complete("good")]
    rewards = WeightedRewards(items).score(completions)
    assert rewards.total.tolist()[::2] == [1, 1]
    assert rewards.total[1].isnan()
    assert rewards.parts[1].isnan().all()
    assert rewards.details["fragile/failed"].tolist() == [0, 1, 0]


@pytest.mark.slow
def test_a_time_limit_kills_endless_rewards_and_keeps_the_others(complete, tmp_path, monkeypatch):
    (tmp_path / "endless_rewards.py").write_text(
        "def endless(completion):\n    while completion.text == 'bad': pass\n    return 1.0\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    reward = FunctionReward("endless_rewards.endless")
    options = {"timeout": 2.0, "workers": 1}
    rewards = WeightedRewards([WeightedReward("slow", reward, **options, on_error="unscorable")])
    completions = [complete("good"), complete("bad", sample_id="culprit"), complete("good")]
    totals = rewards.score(completions).total
    assert totals[::2].tolist() == [1, 1]
    assert totals[1].isnan()
    assert copy.deepcopy(rewards).score(completions[:1]).total.tolist() == [1]
    stopping = WeightedRewards([WeightedReward("slow", reward, **options)])
    with pytest.raises(UserError, match="the reward 'slow' took longer than 2 s, on sample 'culprit'"):
        stopping.score(completions)


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([], "rewards is empty"),
        ([("a", {}), ("a", {})], "several rewards are called a"),
        ([("a", {"gate": RewardGate("b")})], "the gate of 'a' is on 'b'; the other rewards are none"),
        ([("a", {"gate": RewardGate("a")})], "the gate of 'a' is on 'a'"),
        ([("a/b", {})], "no '/'"),
        ([("a", {"weight": NAN})], "the weight of the reward 'a' is nan"),
        ([("a", {"timeout": 0.0})], "the timeout of the reward 'a' is 0.0"),
        ([("a", {"workers": 0})], "has 0 workers"),
        ([("a", {"on_error": "ignore"})], "on_error of the reward 'a' is 'ignore'"),
    ],
)
def test_wrong_settings_are_refused(items, told):
    with pytest.raises(UserError, match=told):
        WeightedRewards([WeightedReward(name, FormatReward(), **options) for name, options in items])


def test_a_scale_without_a_range_is_refused():
    with pytest.raises(UserError, match="a scale needs a range"):
        RewardScale(from_low=1.0, from_high=1.0)


def test_a_recipe_can_name_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reward", type=Reward)
    item = {
        "name": "form",
        "reward": {"class_path": "lit_vlm.rewards.format_reward.FormatReward", "init_args": {"kind": "lenient"}},
        "weight": 0.5,
        "gate": {"on": "right", "above": 0.1},
    }
    right = {"name": "right", "reward": {"class_path": "lit_vlm.rewards.answer_correctness.AnswerCorrectness"}}
    settings = {
        "class_path": "lit_vlm.rewards.weighted_rewards.WeightedRewards",
        "init_args": {"rewards": [item, right]},
    }
    reward = parser.instantiate_classes(parser.parse_object({"reward": settings})).reward
    assert isinstance(reward, WeightedRewards)
    assert reward.rewards[0] == WeightedReward("form", FormatReward("lenient"), 0.5, RewardGate("right", 0.1))
