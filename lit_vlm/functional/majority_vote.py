"""The answer that most completions of a sample give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from lit_vlm.parsing.plain_numbers import parse_number


def majority_vote(answers: Sequence[str | None]) -> int | None:
    """Finds the answer that most completions give.

    Answers are one where they are the same number, or read the same but for case and white space. Completions without
    an answer do not vote. Of answers that equally many give, the one given first wins, so that the vote needs no luck
    and no knowledge of the truth.

    Args:
        answers: What was found in each completion, None where nothing was.

    Returns:
        Place of the first completion that gives the answer; None where no completion has any.

    Example:
        >>> majority_vote(["3", None, "7", " 7"])
        2

    Source:
        Wang et al., Self-Consistency Improves Chain of Thought Reasoning (2022). It leaves ties open; the first seen
        wins here.
    """
    votes: Counter[Fraction | str] = Counter()
    first: dict[Fraction | str, int] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            number = parse_number(answer)
            read = " ".join(answer.split()).casefold() if number is None else number
            votes[read] += 1
            first.setdefault(read, place)
    if not votes:
        return None
    most = max(votes.values())
    return min(first[read] for read, count in votes.items() if count == most)


def vote_is_right(answers: Sequence[str | None], correct: Sequence[bool]) -> bool:
    """Tells whether the answer that most completions give is right; without any answer it is not.

    Args:
        answers: What was found in each completion, None where nothing was.
        correct: Whether each completion is right.
    """
    place = majority_vote(answers)
    return place is not None and correct[place]
