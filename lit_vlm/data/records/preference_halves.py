"""Parts a pair into its prompt and its two completions, whatever of the prompt the completions repeat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_vlm.data.records.turns import MediumMark, Turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Message, TextPart

_PLACEHOLDER = re.compile(r"<(?:image|video) ?[0-9]{0,3}>", re.IGNORECASE)
_ANSWERS = ("assistant", "tool")
_SHOWN = 60  # characters of a text in a message


@dataclass(frozen=True)
class Halves:
    """A prompt and what follows it in either half."""

    prompt: list[Turn]
    chosen: list[Turn]
    rejected: list[Turn]

    @property
    def are_the_same(self) -> bool:
        """Whether both halves say the same, white space around them aside."""
        chosen, rejected = (
            [(turn.role, *(part.strip() if isinstance(part, str) else part for part in turn.parts)) for turn in half]
            for half in (self.chosen, self.rejected)
        )
        return chosen == rejected


def part_halves(prompt: Sequence[Turn] | None, chosen: Sequence[Turn], rejected: Sequence[Turn]) -> Halves:
    """Takes the prompt off the halves that repeat it.

    A half that begins with the user or the system is a whole conversation; what both have in common, up to the last
    turn that is not the assistant's, is the prompt.

    Args:
        prompt: The prompt where the record has one of its own.
        chosen: The turns of the first half.
        rejected: The turns of the second.

    Raises:
        UserError: There is no prompt, the halves or the record disagree about it, or a half has nothing but it.
    """
    whole = [_is_whole(half) for half in (chosen, rejected)]
    if all(whole):
        shared = _common(chosen, rejected)
        prompt = shared if prompt is None else _agreed(prompt, shared)
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
    elif any(whole):
        name, half = ("chosen", chosen) if whole[0] else ("rejected", rejected)
        if prompt is None:
            raise UserError(f"{name} is a whole conversation and the other half is not; write both one way")
        length = next((number for number, turn in enumerate(half) if turn.role in _ANSWERS), len(half))
        # Earlier answers belong to a prompt that has them.
        length = max(length, len(prompt) if _is_prefix(prompt, half) else 0)
        prompt = _agreed(prompt, half[:length])
        chosen, rejected = (half[length:], rejected) if whole[0] else (chosen, half[length:])
    if prompt is None:
        raise UserError(
            "there is no prompt: chosen and rejected hold completions alone, and no column says what was asked"
        )
    for name, half in (("chosen", chosen), ("rejected", rejected)):
        _check_half(name, half)
    return Halves(list(prompt), list(chosen), list(rejected))


def completion_messages(name: str, half: Sequence[Turn]) -> tuple[Message, ...]:
    """Makes messages of a completion; its assistant's turns are learnt.

    Raises:
        UserError: It shows a medium, is empty, or holds half of a character.
    """
    messages = []
    for turn in half:
        if any(isinstance(part, MediumMark) for part in turn.parts):
            raise UserError(f"{name} shows an image or a video, which a model of text cannot learn")
        text = "".join(part for part in turn.parts if isinstance(part, str))
        if not text.strip():
            raise UserError(f"{name} is empty; write the completion, or remove the record")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as fault:
            raise UserError(
                f"{name} holds {ascii(fault.object[fault.start])}, half of a character; write its text as UTF-8"
            ) from fault
        messages.append(Message(turn.role, (TextPart(text),), train=turn.role == "assistant"))
    return tuple(messages)


def has_placeholder(messages: Sequence[Message]) -> bool:
    """Tells whether a text holds ``<image>`` or ``<video>``."""
    return any(_PLACEHOLDER.search(message.text) for message in messages)


def _is_whole(half: Sequence[Turn]) -> bool:
    return bool(half) and half[0].role not in _ANSWERS


def _common(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> list[Turn]:
    """The turns that both halves begin with, up to the last that is not the assistant's."""
    equal = 0
    while equal < min(len(chosen), len(rejected)) and _same(chosen[equal], rejected[equal]):
        equal += 1
    differing = [half[equal] for half in (chosen, rejected) if equal < len(half)]
    if len(differing) == 2 and all(turn.role not in _ANSWERS for turn in differing):
        first, second = map(_shown, differing)
        raise UserError(f"chosen and rejected answer different prompts, {first} and {second}; a pair needs one prompt")
    while equal and chosen[equal - 1].role == "assistant":
        equal -= 1
    if not any(turn.role == "user" for turn in chosen[:equal]):
        raise UserError("chosen and rejected share no question; a pair needs one prompt")
    return list(chosen[:equal])


def _agreed(prompt: Sequence[Turn], repeated: Sequence[Turn]) -> list[Turn]:
    """The prompt of the record, with the system turn and the media of what the halves repeat."""
    own, other = ([turn for turn in turns if turn.role != "system"] for turns in (prompt, repeated))
    if [(turn.role, _said(turn)) for turn in own] != [(turn.role, _said(turn)) for turn in other]:
        raise UserError(
            f"the prompt {_shown(own[-1]) if own else 'is empty'} is not what chosen and rejected begin with, "
            f"{_shown(other[-1]) if other else 'nothing'}; a pair needs one prompt"
        )
    if _media(repeated) > _media(prompt):
        own = other
    system = [turn for turn in prompt if turn.role == "system"] or [t for t in repeated if t.role == "system"]
    return [*system, *own]


def _is_prefix(prompt: Sequence[Turn], half: Sequence[Turn]) -> bool:
    return len(prompt) < len(half) and all(_same(a, b) for a, b in zip(prompt, half, strict=False))


def _check_half(name: str, half: Sequence[Turn]) -> None:
    if not half:
        raise UserError(f"{name} is empty; write the completion, or remove the record")
    if half[0].role != "assistant":
        raise UserError(f"after the prompt {name} goes on with a turn of role {half[0].role!r}, not the assistant's")
    if half[-1].role != "assistant":
        raise UserError(f"{name} ends with a turn of role {half[-1].role!r}; it must end with the assistant's")


def _same(first: Turn, second: Turn) -> bool:
    return first.role == second.role and first.parts == second.parts


def _said(turn: Turn) -> str:
    """The words of a turn, without placeholders and runs of white space."""
    text = "".join(part for part in turn.parts if isinstance(part, str))
    return " ".join(_PLACEHOLDER.sub(" ", text).split())


def _media(turns: Sequence[Turn]) -> int:
    return sum(
        1 if isinstance(part, MediumMark) else len(_PLACEHOLDER.findall(part)) for turn in turns for part in turn.parts
    )


def _shown(turn: Turn) -> str:
    text = _said(turn)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
