import math

import pytest
import torch

from lit_vlm.interfaces.rollouts import Rewards
from lit_vlm.rewards.reward_figures import reward_figures

NAN = math.nan


def rewards(parts, **details):
    parts = torch.tensor(parts)
    total = parts.nan_to_num().sum(1).where(~parts.isnan().all(1), NAN)
    return Rewards(total, parts, torch.ones(parts.shape[1]), ("a", "b")[: parts.shape[1]], details)


def test_figures_leave_out_what_is_missing_and_count_it():
    given = rewards([[1.0, NAN], [3.0, 2.0], [NAN, NAN], [2.0, 0.0]], **{"a/failed": torch.tensor([0, 0, 1.0, 0])})
    figures = reward_figures(given)
    assert figures["reward/mean"] == pytest.approx((1 + 5 + 2) / 3)
    assert figures["reward/missing"] == 0.25
    assert figures["reward/a/mean"] == 2
    assert figures["reward/a/std"] == pytest.approx(1)
    assert figures["reward/b/missing"] == 0.5
    assert figures["reward/a/failed"] == 0.25


def test_two_ranks_give_the_figures_of_one():
    halves = [rewards([[1.0, NAN], [3.0, 2.0]]), rewards([[NAN, NAN], [2.0, 0.0]])]
    sent = [[], []]
    for rank, half in enumerate(halves):
        reward_figures(half, lambda tensor, rank=rank: sent[rank].append(tensor) or tensor)
    first = sent[0][0] + sent[1][0]
    replies = {0: first}
    # The second message depends on the reply to the first.
    second = []
    for half in halves:
        calls = iter(range(2))
        reward_figures(
            half, lambda tensor, calls=calls: replies[0] if next(calls) == 0 else second.append(tensor) or tensor
        )
    calls = iter((first, second[0] + second[1]))
    figures = reward_figures(halves[0], lambda tensor: next(calls))
    assert figures == pytest.approx(reward_figures(rewards([[1.0, NAN], [3.0, 2.0], [NAN, NAN], [2.0, 0.0]])))


def test_figures_without_any_score_are_left_out():
    figures = reward_figures(rewards([[NAN], [NAN]]))
    assert figures == {"reward/missing": 1.0, "reward/a/missing": 1.0}
    assert reward_figures(rewards(torch.zeros(0, 1).tolist() or [[NAN]])) != {}
