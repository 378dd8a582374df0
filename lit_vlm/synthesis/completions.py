"""What the transforms share: reading grades, telling completions apart, building samples to imitate."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Candidate, Message, Part, Sample, TextPart

DECIMALS = 9
"""To which scores are compared, so that those that are equal on paper tie."""

Item = TypeVar("Item")
CompletionKey = tuple[tuple[str, tuple[str | Part, ...]], ...]


def origin_of(sample: Sample) -> str:
    """Names a sample in messages: where it stands, or its id."""
    return sample.meta.origin or sample.id


def completion_key(messages: Sequence[Message]) -> CompletionKey:
    """Returns what two completions share if they differ in white space alone.

    Example:
        >>> from lit_vlm.interfaces.records import assistant_message
        >>> completion_key([assistant_message("a  b")]) == completion_key([assistant_message("a b ")])
        True
    """
    return tuple(
        (
            message.role,
            tuple(" ".join(part.text.split()) if isinstance(part, TextPart) else part for part in message.content),
        )
        for message in messages
    )


def is_empty(messages: Sequence[Message]) -> bool:
    """Tells whether the assistant says nothing in a completion."""
    return not any(message.text.strip() for message in messages if message.role == "assistant")


def trained(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Marks the assistant's turns as trained, and no other."""
    return tuple(replace(message, train=message.role == "assistant") for message in messages)


def reference_completion(sample: Sample) -> tuple[Message, ...] | None:
    """Returns the last assistant turn, marked as trained; None where there is none or it is empty."""
    reference = sample.messages[len(sample.prompt) :]
    return None if is_empty(reference) else trained(reference)


def check_candidates(sample: Sample) -> None:
    """Refuses a sample without candidates.

    Raises:
        BadSampleError: There are none.
    """
    if not sample.candidates:
        raise BadSampleError(origin_of(sample), "has no candidates; give completions with their grades")


def spoken_candidates(sample: Sample) -> list[tuple[int, Candidate]]:
    """Lists the candidates that say something, with their places."""
    return [(index, candidate) for index, candidate in enumerate(sample.candidates) if not is_empty(candidate.messages)]


def first_of_each(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[Item]:
    """Leaves out items whose key an earlier one has.

    Example:
        >>> first_of_each(["one", "two", "six", "three"], key=len)
        ['one', 'three']
    """
    first: dict[Hashable, Item] = {}
    for item in items:
        first.setdefault(key(item), item)
    return list(first.values())


def distinct_candidates(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Leaves out candidates that say what an earlier one says; white space does not count."""
    return first_of_each(candidates, key=lambda candidate: completion_key(candidate.messages))


def total_score(candidate: Candidate, names: Sequence[str]) -> float | None:
    """Adds named grades up; None where one is missing or no finite number, such as ``N/A``.

    Example:
        >>> total_score(Candidate((), {"helpfulness": 4, "correctness": 3}), ["helpfulness", "correctness"])
        7.0
    """
    grades = [candidate.scores.get(name) for name in names]
    if not all(isinstance(grade, int | float) and math.isfinite(grade) for grade in grades):
        return None
    return round(math.fsum(grade for grade in grades if grade is not None), DECIMALS)


def imitation_sample(
    sample: Sample, index: int, completion: Sequence[Message], prompt: Sequence[Message] | None = None
) -> Sample:
    """Builds the sample that imitates one candidate and nothing else.

    Args:
        sample: Where the candidate comes from; media, answer and ``meta`` are kept.
        index: The candidate's place, which goes into the id.
        completion: The candidate's turns.
        prompt: The turns before it; the sample's own where None is given.
    """
    before = sample.prompt if prompt is None else prompt
    return replace(
        sample,
        id=f"{sample.id}/candidate-{index}",
        messages=(*(replace(message, train=False) for message in before), *trained(completion)),
        candidates=(),
        preferences=(),
    )
