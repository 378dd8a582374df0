import pytest

from lit_vlm.data.records.turns import MediumMark, read_turns, text_turn
from lit_vlm.interfaces.errors import UserError


def test_both_spellings_read_the_same():
    first = read_turns([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}])
    second = read_turns([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    assert first == second == [text_turn("user", "Hi"), text_turn("assistant", "Hello")]
    assert read_turns([{"who": "User", "says": "Hi"}], "who", "says") == first[:1]


def test_parts_go_by_their_type_not_by_their_keys():
    (turn,) = read_turns(
        [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Hi", "image": None}]}]
    )
    assert turn.parts == (MediumMark("image"), "Hi")
    (turn,) = read_turns([{"role": "user", "content": [{"image": "a.png"}, {"text": "Hi"}]}])
    assert turn.parts == (MediumMark("image", "a.png"), "Hi")
    (turn,) = read_turns([{"role": "user", "content": [{"type": "video", "video": "v.mp4", "fps": 2}]}])
    assert turn.parts == (MediumMark("video", {"video": "v.mp4", "fps": 2}),)


def test_tools_speak_in_turns_of_their_own():
    turns = read_turns(
        [
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 2}'}}],
            },
            {"from": "observation", "value": "3"},
            {"role": "tool", "content": "4"},
        ]
    )
    assert [turn.role for turn in turns] == ["assistant", "assistant", "tool", "tool"]
    assert turns[0].parts == ('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',)
    assert turns[1].parts == ('<tool_call>\n{"name": "f", "arguments": {"x": 2}}\n</tool_call>',)


def test_flags_say_what_is_learnt():
    flags = [{"loss": True}, {"loss": False}, {"loss_scale": 0}, {"weight": 1}, {"train": False}, {}, {"loss": None}]
    turns = read_turns([{"role": "assistant", "content": "x", **flag} for flag in flags])
    assert [turn.train for turn in turns] == [True, False, False, True, False, None, None]


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([], "no turn"),
        ("Hello", "must be a list of turns like {role, content}, this is a string"),
        (["Hello", "Hi"], "must be a list of turns like {role, content}, this is a list of strings"),
        ([{"content": "Hi"}], "turn 1 has no role"),
        ([{"role": "user", "content": {"a": 1}}], r"turn 1 has a part without a type, which holds \['a'\]"),
        ([{"role": "user", "content": float("nan")}], "nan stands where text should"),
        ([{"role": "user", "content": float("inf")}], "inf stands where text should"),
        ([{"role": "user", "content": "Hi"}, {"role": "owl", "content": "Hu"}], "turn 2 has the role 'owl'; known are"),
        ([{"role": "user", "content": None}], r"turn 1 \(user\) has no content"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a"}]}], "part of type 'audio'"),
        ([{"role": "user", "content": [1, 2]}], "must be text or a list of parts"),
        ([{"role": "assistant", "content": "x", "loss_scale": 0.5}], "loss_scale 0.5; only 0 and 1"),
        ([{"role": "assistant", "content": "x", "loss": "no"}], "loss 'no'; give true or false"),
    ],
)
def test_a_broken_turn_is_named(turns, told):
    with pytest.raises(UserError, match=told):
        read_turns(turns)
