"""What the transforms of critiques share: the question about a solution, asked anew in other words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lit_vlm.functional.next_turn import CANDIDATE, PARENT
from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Answer, Candidate, Message, Part, Sample, TextPart
from lit_vlm.synthesis.completions import origin_of


def question_text(sample: Sample) -> str:
    """Returns what was asked: the user's turn, or where there are several turns all of them by role."""
    turns = [message for message in sample.prompt if message.role != "system"]
    if len(turns) == 1:
        return turns[0].text
    return "\n".join(f"{message.role}: {message.text}" for message in turns)


def asked_about(sample: Sample, text: str) -> tuple[Message, ...]:
    """Writes one user turn with the pictures and videos of a sample's prompt, in order, and then a text."""
    media: list[Part] = [
        part for message in sample.prompt for part in message.content if not isinstance(part, TextPart)
    ]
    return (Message("user", (*media, TextPart(text))),)


def solution_of(sample: Sample) -> Critique:
    """Returns the question and the solution that a sample of critiques is about.

    Raises:
        BadSampleError: It is about none.
    """
    if sample.critique is None or not sample.critique.response.strip():
        raise BadSampleError(
            origin_of(sample),
            "has critiques without the solution that they are about; make it with CritiqueUnitPrompts",
        )
    return sample.critique


def reference_answer(answer: Answer | None) -> str | None:
    """Words a true answer for a critic that may know it; None where there is none that words can tell.

    Example:
        >>> reference_answer(Answer("list", ["a", "b"]))
        'a, b'
    """
    if answer is None or answer.value is None:
        return None
    value = answer.value
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def made_of(sample: Sample, index: int, messages: tuple[Message, ...], **fields: Any) -> Sample:
    """Makes the sample ``<id>#<index>`` about one candidate of another sample, which ``meta.extra`` names."""
    extra = {**sample.meta.extra, PARENT: sample.id, CANDIDATE: index}
    made = replace(sample, id=f"{sample.id}#{index}", messages=messages, candidates=(), preferences=(), **fields)
    return replace(made, meta=replace(made.meta, extra=extra))


def single_turn(sample: Sample, index: int, candidate: Candidate) -> str:
    """Returns what a candidate says.

    Raises:
        BadSampleError: It has other turns than one of the assistant's.
    """
    if len(candidate.messages) != 1 or candidate.messages[0].role != "assistant":
        raise BadSampleError(origin_of(sample), f"candidate {index} is not one turn of the assistant")
    return candidate.text
