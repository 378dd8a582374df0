"""Tells from completions where their answers stand, so that validation looks for them there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, AnswerPlace, Sample
from lit_vlm.parsing.answer_places import find_answer
from lit_vlm.parsing.answers import check_answer

SHORT_WORDS = 5
"""Words of a completion that may be an answer by itself where nothing else says what the answer is."""
LONGEST_WHOLE = 10
"""Words of a text that is compared as a whole; a longer one is free text, which is seldom repeated word for word."""
NEARLY_ALL = 0.9
"""Share of the completions that must have an answer in its place where only they say what the answer is."""
FREE_TEXT = "the completions are free text; data.answer_type text compares them word for word"

WORDS: dict[AnswerPlace | Literal["none"], str] = {
    "tags": "in <answer></answer>",
    "boxed": r"in \boxed{}",
    "stated": "after 'the answer is', 'Answer:' or '####'",
    "whole": "as the whole completion",
    "any": "in <answer></answer>, \\boxed{}, after 'the answer is', or as the whole completion",
    "none": "nowhere",
}
_LIKELY: tuple[AnswerPlace, ...] = ("tags", "boxed", "stated", "whole")


@dataclass(frozen=True)
class AnswerSource:
    """Where a data set's answers stand in its completions, and whether those say what the answer is."""

    place: AnswerPlace | Literal["none"] = "tags"
    """``none`` where there is nothing to compare."""
    from_completions: bool = False
    """Whether the answers are taken out of the completions, since the records have no other."""
    reason: str = ""
    """What was seen, for the log."""

    def describe(self) -> str:
        """Says it in one line, for the log."""
        if self.place == "none":
            return f"answers are not checked: {self.reason}"
        taken = ", and are taken from there" if self.from_completions else ""
        return f"answers are looked for {WORDS[self.place]}{taken}" + (f" ({self.reason})" if self.reason else "")


def tell_source(samples: Sequence[Sample], *, free_text: bool = False) -> AnswerSource:
    """Decides by what samples of a data set hold, most of them by their own completions.

    Args:
        samples: Some of the training samples, with answers where the records have them.
        free_text: Whether long texts are compared as well.

    Returns:
        The place at which most completions agree with their answers; without answers the place in which nearly all
        completions have one, the whole only where nearly all are short. ``any`` where there are no completions.
    """
    completed = [(_completion(sample), sample.answer) for sample in samples if _completion(sample)]
    if not completed:
        return AnswerSource("any", reason="there are no completions to tell it by")
    answered = [(text, answer) for text, answer in completed if answer is not None]
    if not answered:
        return _from_completions([text for text, _ in completed], free_text)
    agreeing = {
        place: sum(
            _agrees(text, answer, place)
            for text, answer in answered
            if place != "whole" or free_text or not is_free_text(answer)
        )
        for place in _LIKELY
    }
    best = max(agreeing, key=lambda place: agreeing[place])  # the first of equals
    if 2 * agreeing[best] >= len(answered):
        return AnswerSource(best, reason=f"{agreeing[best]} of {len(answered)} completions looked at have it there")
    holds = {place: sum(find_answer(text, place) is not None for text, _ in answered) for place in _LIKELY[:-1]}
    fullest = max(holds, key=lambda place: holds[place])
    if 2 * holds[fullest] >= len(answered):
        return AnswerSource(fullest, reason=f"{holds[fullest]} of {len(answered)} completions looked at have one there")
    if all(is_free_text(answer) for _, answer in answered):
        return AnswerSource("none", reason=FREE_TEXT)
    missing = len(answered) - agreeing[best]
    return AnswerSource(
        "none",
        reason=f"{missing} of {len(answered)} completions looked at do not show theirs where it could be found; write "
        "it in <answer></answer>, or set data.answer_place",
    )


def is_free_text(answer: Answer) -> bool:
    """Tells whether a text is too long to be repeated word for word."""
    return answer.type == "text" and len(str(answer.value).split()) > LONGEST_WHOLE


def _from_completions(texts: Sequence[str], free_text: bool) -> AnswerSource:
    for place in _LIKELY:
        found = [find_answer(text, place) for text in texts]
        count = sum(answer is not None and (place != "whole" or _is_short(answer)) for answer in found)
        if count >= NEARLY_ALL * len(texts):
            return AnswerSource(place, True, f"{count} of {len(texts)} completions looked at have one there")
    if free_text:
        return AnswerSource("whole", True)
    return AnswerSource("none", reason=FREE_TEXT)


def _completion(sample: Sample) -> str:
    last = sample.messages[-1] if sample.messages else None
    return last.text if last is not None and last.role == "assistant" else ""


def _is_short(text: str) -> bool:
    return "\n" not in text and len(text.split()) <= SHORT_WORDS


def _agrees(text: str, answer: Answer, place: AnswerPlace) -> bool:
    # By value alone: the place shows in plain cases, and formulas take a process of their own to compare.
    grader = "exact" if answer.type == "number" else answer.grader
    try:
        return check_answer(text, replace(answer, place=place, grader=grader)).correct
    except UserError:  # only a judge could tell
        return False
