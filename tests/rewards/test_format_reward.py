import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.format_reward import FormatReward

GOOD = "<think>a</think>\n<answer>b</answer>"


@pytest.mark.parametrize(
    ("text", "lenient", "strict", "prefilled", "think_only"),
    [
        (GOOD, 1, 1, 1, 1),
        (GOOD + "\n", 0, 1, 1, 1),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 1, 0, 0, 1),
        ("<think>a</think><answer> </answer>", 1, 0, 0, 1),
        ("a</think><answer>b</answer>", 0, 0, 1, 0),
        ("<think>a</think>so<answer>b</answer>", 0, 0, 0, 1),
        ("<think>x<think>a</think><answer>b</answer>", 1, 0, 0, 0),
    ],
)
def test_the_card_s_table(complete, text, lenient, strict, prefilled, think_only):
    rewards = [
        FormatReward("lenient"),
        FormatReward(),
        FormatReward(prefilled=True),
        FormatReward("think_only"),
    ]
    given = [reward([complete(text)]).total.item() for reward in rewards]
    assert given == [lenient, strict, prefilled, think_only]


def test_a_box_after_the_thought(complete):
    texts = [
        "<think>a</think> \\boxed{5}!",
        "<think>\\boxed{5}</think>",
        "a</think>\\boxed{5}",
        "<think></think>\\boxed{5",
    ]
    assert FormatReward("boxed")([complete(text) for text in texts]).total.tolist() == [1, 0, 0, 0]


def test_spaces_in_tags_count_only_by_option(complete):
    spaced = [complete("< think >a</ think >\n< answer >b / c</answer >")]
    assert FormatReward()(spaced).total.item() == 0
    assert FormatReward(ignore_spaces_in_tags=True)(spaced).total.item() == 1


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="kind is 'loose'"):
        FormatReward("loose")
