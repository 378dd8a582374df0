import time
from dataclasses import dataclass

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards import reward_run
from lit_vlm.rewards.reward_run import run_reward


@dataclass(frozen=True)
class Lengths(Reward):
    """Scores by the length of the text; some texts are answered badly."""

    as_list: bool = False

    def __call__(self, completions, context=RewardContext()):
        scores = []
        for completion in completions:
            if completion.text == "raise":
                raise ZeroDivisionError("by nothing")
            bad = {"nan": float("nan"), "inf": float("inf"), "skip": None}
            scores.append(bad.get(completion.text, float(len(completion.text))))
        output = RewardOutput.of_scores(scores, {"length": torch.ones(len(scores))})
        return output.total.tolist() if self.as_list else output


@dataclass(frozen=True)
class ShapeFault(Reward):
    """Gives one score too many."""

    def __call__(self, completions, context=RewardContext()):
        return RewardOutput(torch.zeros(len(completions) + 1))


@dataclass(frozen=True)
class TokenRewards(Reward):
    """Rewards each token by its id, or one token too few."""

    missing: int = 0

    def __call__(self, completions, context=RewardContext()):
        rows = tuple(torch.tensor(ids[: len(ids) - self.missing], dtype=torch.float) for ids in context.token_ids)
        return RewardOutput(torch.zeros(len(completions)), per_token=rows)


@dataclass(frozen=True)
class GroupSize(Reward):
    """Gives each completion the size of its group; raises for groups of one."""

    needs_groups = True

    def __call__(self, completions, context=RewardContext()):
        sizes = [float(context.group_of.count(group)) for group in context.group_of]
        if 1.0 in sizes:
            raise ValueError("alone")
        return RewardOutput(torch.tensor(sizes))


def run(complete, texts, reward=Lengths(), context=RewardContext()):
    completions = [complete(text, sample_id=f"sample-{text}") for text in texts]
    return run_reward(reward, completions, context), completions


def test_scores_and_details_come_back_in_order(complete):
    given, _ = run(complete, ["a", "bbb", "cc"])
    assert given.output.total.tolist() == [1, 3, 2]
    assert given.output.details["length"].tolist() == [1, 1, 1]
    assert given.faults == {}


def test_what_does_not_apply_is_no_fault(complete):
    given, _ = run(complete, ["a", "skip"])
    assert given.output.total.isnan().tolist() == [False, True]
    assert given.output.applies.tolist() == [True, False]
    assert given.faults == {}


@pytest.mark.parametrize(("bad", "told"), [("nan", "returned nan"), ("inf", "inf"), ("raise", "ZeroDivisionError")])
def test_a_fault_is_pinned_to_its_row_and_the_others_keep_their_scores(complete, bad, told):
    given, completions = run(complete, ["a", bad, "ccc"])
    assert list(given.faults) == [1]
    assert told in given.faults[1]
    assert given.output.total[[0, 2]].tolist() == [1, 3]
    assert given.output.total[1].isnan()
    with pytest.raises(UserError, match=f"the reward 'length' .*sample 'sample-{bad}'"):
        given.stop_at_faults("length", completions)


def test_the_number_of_other_faults_is_told(complete):
    given, completions = run(complete, ["raise", "inf", "nan"])
    with pytest.raises(UserError, match="and 2 more completions"):
        given.stop_at_faults("length", completions)


@pytest.mark.parametrize("reward", [ShapeFault(), Lengths(as_list=True)])
def test_a_wrong_number_or_kind_of_scores_is_a_fault_of_all(complete, reward):
    given, _ = run(complete, ["a", "b"], reward)
    assert sorted(given.faults) == [0, 1]
    assert given.output.total.isnan().all()


def test_rewards_of_tokens_must_fit_the_tokens(complete):
    context = RewardContext(token_ids=((1, 2, 3), (4,)))
    given, _ = run(complete, ["a", "b"], TokenRewards(), context)
    assert [row.tolist() for row in given.output.per_token] == [[1, 2, 3], [4]]
    given, _ = run(complete, ["a", "b"], TokenRewards(missing=1), context)
    assert sorted(given.faults) == [0, 1]


def test_a_reward_of_groups_is_asked_group_by_group_to_find_the_fault(complete):
    given, _ = run(complete, ["a", "b", "c"], GroupSize(), RewardContext(group_of=(7, 3, 7)))
    assert list(given.faults) == [1]
    assert given.output.total[[0, 2]].tolist() == [2, 2]


def test_no_completion_is_no_question(complete):
    given, _ = run(complete, [], ShapeFault())
    assert given.output.total.shape == (0,)


@dataclass(frozen=True)
class Hanging(Reward):
    """Waits for ever, whatever goes wrong meanwhile."""

    def __call__(self, completions, context=RewardContext()):
        while True:
            try:
                time.sleep(600)
            except Exception:
                continue


def test_a_reward_that_hangs_ends_the_run_and_is_not_asked_again(monkeypatch, complete):
    monkeypatch.setattr(reward_run, "LONGEST_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"the reward Hanging took longer than 0.3 s over 2 completions; .*a timeout"):
        run_reward(Hanging(), [complete("a"), complete("b")], RewardContext())
    assert time.monotonic() - start < 10
