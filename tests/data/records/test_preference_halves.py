import pytest

from lit_vlm.data.records.preference_halves import completion_messages, has_placeholder, part_halves
from lit_vlm.data.records.turns import MediumMark, Turn
from lit_vlm.interfaces.errors import UserError

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def turns(*texts):
    """Turns written as ``u: text``."""
    return [Turn(ROLES[text[0]], (text[3:],)) for text in texts]


def told(prompt, chosen, rejected):
    with pytest.raises(UserError) as fault:
        part_halves(prompt, chosen, rejected)
    return str(fault.value)


@pytest.mark.parametrize("own_prompt", [True, False])
@pytest.mark.parametrize("history", [(), ("s: Be kind.",), ("u: Hi", "a: Hello."), ("s: S", "u: Hi", "a: Hello.")])
def test_the_prompt_is_taken_off_whole_conversations(own_prompt, history):
    prompt = turns(*history, "u: Why?")
    chosen, rejected = turns("a: So."), turns("a: Not so.")
    halves = part_halves(prompt if own_prompt else None, [*prompt, *chosen], [*prompt, *rejected])
    assert (halves.prompt, halves.chosen, halves.rejected) == (prompt, chosen, rejected)
    # Halves without their prompt say the same.
    assert part_halves(prompt, chosen, rejected) == halves
    assert part_halves(prompt, [*prompt, *chosen], rejected) == halves
    assert part_halves(prompt, chosen, [*prompt, *rejected]) == halves


def test_the_completion_begins_with_the_assistants_turn_even_if_both_begin_alike():
    asked = turns("u: Why?")
    halves = part_halves(None, [*asked, *turns("a: So.", "a: And so.")], [*asked, *turns("a: So.")])
    assert (len(halves.prompt), len(halves.chosen), len(halves.rejected)) == (1, 2, 1)
    called = turns("u: Weather?", "a: <call>", "t: rain")
    halves = part_halves(None, [*called, *turns("a: It rains.")], [*called, *turns("a: It snows.")])
    assert halves.prompt == called


def test_the_prompt_may_be_written_with_its_media_on_either_side():
    shown = [Turn("user", (MediumMark("image"), "What?"))]
    halves = part_halves(turns("u:  What? "), [*shown, *turns("a: A")], [*shown, *turns("a: B")])
    assert halves.prompt == shown
    written = turns("u: <image>What?")
    halves = part_halves(written, turns("s: Be kind.", "u: What?", "a: A"), turns("s: Be kind.", "u: What?", "a: B"))
    assert halves.prompt == [*turns("s: Be kind."), *written]


def test_equal_halves_are_equal_whatever_surrounds_them():
    asked = turns("u: Why?")
    assert part_halves(asked, turns("a: So."), turns("a:  So. ")).are_the_same
    assert part_halves(None, [*asked, *turns("a: So.")], [*asked, *turns("a: So.")]).are_the_same
    assert not part_halves(asked, turns("a: So so."), turns("a: So  so.")).are_the_same


def test_halves_that_disagree_are_refused():
    asked = turns("u: Why?")
    assert "there is no prompt" in told(None, turns("a: So."), turns("a: No."))
    assert "answer different prompts, 'Why?' and 'How?'" in told(
        None, turns("u: Why?", "a: A"), turns("u: How?", "a: A")
    )
    assert "different prompts" in told(
        None, turns("u: Why?", "a: A", "u: x", "a: B"), turns("u: Why?", "a: A", "u: y", "a: B")
    )
    assert "the prompt 'Where?' is not what chosen and rejected begin with, 'Why?'" in told(
        turns("u: Where?"), turns("u: Why?", "a: A"), turns("u: Why?", "a: B")
    )
    assert "is not what" in told(turns("u: Where?"), turns("u: Why?", "a: A"), turns("a: B"))
    assert "chosen is a whole conversation and the other half is not" in told(
        None, turns("u: Q", "a: A"), turns("a: B")
    )
    assert "rejected is empty" in told(None, turns("u: Why?", "a: A"), asked)
    assert "share no question" in told(None, turns("s: S", "a: A"), turns("s: S", "a: B"))
    assert "chosen ends with a turn of role 'user'" in told(asked, turns("a: A", "u: B"), turns("a: C"))
    assert "not the assistant's" in told(asked, turns("t: rain", "a: A"), turns("a: C"))


def test_a_completion_becomes_messages_that_are_learnt():
    messages = completion_messages("chosen", turns("a: See.", "u: And?", "a: <image> is text"))
    assert [(message.role, message.text, message.train) for message in messages] == [
        ("assistant", "See.", True),
        ("user", "And?", False),
        ("assistant", "<image> is text", True),
    ]
    assert has_placeholder(messages)
    assert not has_placeholder(messages[:2])


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (" ", "rejected is empty; write the completion, or remove the record"),
        ("\ud800", r"rejected holds '\\ud800', half of a character"),
        (MediumMark("image"), "rejected shows an image or a video"),
    ],
)
def test_a_completion_that_cannot_be_learnt_is_refused(part, expected):
    with pytest.raises(UserError, match=expected):
        completion_messages("rejected", [Turn("assistant", (part,))])
