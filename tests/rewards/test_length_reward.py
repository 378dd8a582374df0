import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.format_reward import FormatReward
from lit_vlm.rewards.length_reward import CosineLengthReward, LengthBonusReward, SoftOverlongReward


def test_overlong_falls_in_a_line(complete):
    lengths = [0, 80, 85, 90, 100, 101, 5000]
    output = SoftOverlongReward(100, 20)([complete(tokens=length) for length in lengths])
    assert output.total.tolist() == pytest.approx([0, 0, -0.25, -0.5, -1, -1, -1])


def test_the_cosine_pays_short_right_answers_and_stays_after_the_end(complete):
    cases = [(256, True), (256, False), (2048, True), (0, True), (0, False), (1024, False)]
    output = CosineLengthReward(1024)([complete(tokens=length, correct=right) for length, right in cases])
    assert output.total.tolist() == pytest.approx([0.926777, -0.926777, 0.5, 1.0, -1.0, -0.5], abs=1e-6)


def test_the_bonus_needs_two_right_answers_in_the_group(complete):
    lengths = [400, 600, 330, 512]
    context = RewardContext(group_of=(3,) * 4)

    def bonus(*right):
        completions = [
            complete(tokens=length, correct=is_right) for length, is_right in zip(lengths, right, strict=True)
        ]
        return LengthBonusReward()(completions, context).total.tolist()

    assert bonus(True, True, False, False) == pytest.approx([0.2, 0, 0, 0])
    assert bonus(True, False, False, False) == [0, 0, 0, 0]
    assert bonus(True, True, True, True) == pytest.approx([0.2, 0, 0.2, 0.2])


def test_the_bonus_may_ask_another_reward_what_is_right_and_needs_groups(complete):
    good = "<think>a</think><answer>b</answer>"
    completions = [complete(text, tokens=400) for text in (good, good, "")]
    reward = LengthBonusReward(accuracy=FormatReward())
    assert reward(completions, RewardContext(group_of=(0, 0, 0))).total.tolist() == pytest.approx([0.2, 0.2, 0])
    assert reward(completions, RewardContext(group_of=(0, 1, 1))).total.tolist() == [0, 0, 0]
    assert not reward(completions).applies.any()


def test_right_and_wrong_need_a_verdict(complete):
    with pytest.raises(UserError, match="sample 's' has no answer"):
        CosineLengthReward(10)([complete()])
    with pytest.raises(UserError, match="sample 's' has no answer"):
        LengthBonusReward()([complete()], RewardContext(group_of=(0,)))


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="margin_tokens is 0"):
        SoftOverlongReward(100, 0)
    with pytest.raises(UserError, match="max_tokens is 0"):
        CosineLengthReward(0)
    with pytest.raises(UserError, match="put them in order"):
        LengthBonusReward(10, 5)
