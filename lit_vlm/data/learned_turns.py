"""Which of the assistant's turns a sample teaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample

Learn = Literal["all_turns", "last_turn", "critique"]


def mark_turns(sample: Sample, learn: Learn | None) -> Sample:
    """Marks the assistant's turns that supervised losses count.

    Args:
        sample: A conversation; one without an assistant's turn stays as it is.
        learn: ``all_turns``: every turn of the assistant, such as its own solution and then its judgement;
            ``last_turn``: the last one alone, such as the last action of a dialogue; ``critique``: the last one of a
            judging question (``Sample.critique``), every one of other samples. None leaves the marks as they are.

    Returns:
        The sample with its marks; a pair's or candidate's turns keep theirs.
    """
    if learn is None:
        return sample
    spoken = [place for place, message in enumerate(sample.messages) if message.role == "assistant"]
    last_alone = learn == "last_turn" or (learn == "critique" and sample.critique is not None)
    learnt = spoken[-1:] if last_alone else spoken
    messages = (replace(message, train=place in learnt) for place, message in enumerate(sample.messages))
    return replace(sample, messages=tuple(messages))


def check_learn(learn: str | None) -> None:
    """Refuses another word.

    Raises:
        UserError: It is none of the three.
    """
    if learn is not None and learn not in get_args(Learn):
        raise UserError(f"data.learn is {learn!r}; give one of {', '.join(get_args(Learn))}")
