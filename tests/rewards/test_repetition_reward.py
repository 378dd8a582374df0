import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.repetition_reward import RepetitionReward


def scores(reward, *token_ids):
    return reward([None] * len(token_ids), RewardContext(token_ids=token_ids)).total.tolist()


def test_the_cards_numbers():
    assert scores(RepetitionReward(3), (1, 2, 3, 1, 2, 3, 4)) == pytest.approx([-0.2])
    assert scores(RepetitionReward(2), (5, 5, 5, 5, 5)) == pytest.approx([-0.75])


def test_short_or_varied_completions_cost_nothing():
    assert scores(RepetitionReward(3), (), (1, 1), (1, 2, 3, 4)) == [0, 0, 0]


def test_without_tokens_it_does_not_apply(complete):
    assert not RepetitionReward()([complete()]).applies.any()


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="n is 0"):
        RepetitionReward(0)
    with pytest.raises(UserError, match="penalty is 1"):
        RepetitionReward(penalty=1.0)
