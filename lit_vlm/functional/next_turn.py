"""Conversations in which a question is tried again: an attempt, what is said of it, another attempt.

Messages are those of the question's own prompt, then by turns an attempt (assistant) and the feedback on it (user). The
rewards of the attempts are an entry of the sample's ``meta.extra``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Message, Sample, TextPart

FEEDBACK = "That answer is not correct. Try again."
"""What is said of a wrong attempt where nothing else is given."""
EARLIER_REWARDS = "earlier_rewards"
"""Entry of ``SampleMeta.extra``: the reward of each attempt in the prompt, in order."""
PARENT, CANDIDATE = "parent", "candidate"
"""Entries of ``SampleMeta.extra``: the id of the sample that another one was made of, and the completion's place."""


@dataclass(frozen=True)
class EarlierTurn:
    """An attempt that stands in a prompt."""

    attempt: Message
    feedback: Message
    reward: float


@dataclass(frozen=True)
class TriedQuestion:
    """A prompt taken apart."""

    question: tuple[Message, ...]
    """The prompt of the first turn."""
    earlier: tuple[EarlierTurn, ...]
    """The attempts so far, in order."""


def next_turn(sample: Sample, attempt: str, feedback: str = FEEDBACK, reward: float = 0.0) -> Sample:
    """Puts an attempt and the feedback on it behind a prompt.

    What follows the sample's own prompt, such as a completion to imitate, stays its last turn. Grades and pairs are of
    the prompt as it was and go.

    Args:
        sample: What was asked; it may have earlier attempts already.
        attempt: What the assistant wrote.
        feedback: What the user says of it.
        reward: Of the attempt; kept in ``meta.extra``.
    """
    said = (Message("assistant", (TextPart(attempt),)), Message("user", (TextPart(feedback),)))
    prompt = tuple(replace(message, train=False) for message in sample.prompt)
    rewards = [*_rewards(sample), reward]
    return replace(
        sample,
        messages=(*prompt, *said, *sample.messages[len(sample.prompt) :]),
        meta=replace(sample.meta, extra={**sample.meta.extra, EARLIER_REWARDS: rewards}),
        candidates=(),
        preferences=(),
    )


def tried_question(sample: Sample) -> TriedQuestion:
    """Takes the prompt of a sample apart, by the rewards that are kept beside it.

    Raises:
        BadSampleError: There are not as many attempts as rewards.
    """
    rewards = _rewards(sample)
    start = len(sample.prompt) - 2 * len(rewards)
    said = sample.prompt[max(start, 0) :] if rewards else ()
    if start < 1 or [message.role for message in said] != ["assistant", "user"] * len(rewards):
        raise BadSampleError(
            sample.meta.origin or sample.id,
            f"{EARLIER_REWARDS} has {len(rewards)} rewards, but its prompt does not end in as many attempts of the "
            "assistant, each with the user's feedback",
        )
    turns = zip(said[0::2], said[1::2], rewards, strict=True)
    return TriedQuestion(sample.prompt[:start], tuple(EarlierTurn(*turn) for turn in turns))


def _rewards(sample: Sample) -> Sequence[float]:
    rewards = sample.meta.extra.get(EARLIER_REWARDS, ())
    if not isinstance(rewards, list | tuple) or not all(type(reward) in (int, float) for reward in rewards):
        raise BadSampleError(
            sample.meta.origin or sample.id, f"{EARLIER_REWARDS} is {rewards!r}; give a list of numbers, one an attempt"
        )
    return rewards
