"""The base of rewards that look at one completion at a time, and what they read of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.parsing.answer_places import find_answer
from lit_vlm.parsing.final_answers import extract_single_answer, last_boxed

Value = TypeVar("Value")


class CompletionReward(Reward):
    """Scores each completion by itself."""

    @abstractmethod
    def score(self, completion: Completion) -> float | None:
        """Scores one completion; None says that the reward does not apply to it."""

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Scores each completion."""
        return RewardOutput.of_scores([self.score(completion) for completion in completions])


def answer_text(completion: Completion) -> str | None:
    r"""Reads the answer that a completion gives, where its sample says that answers stand.

    Where they stand in tags, an answer in ``\boxed{}`` counts as well, and of several different answer blocks none
    does: listing answers must not pay.

    Returns:
        The text without tags or box, never empty; None where there is no answer.
    """
    answer = completion.sample.answer
    place = "tags" if answer is None else answer.place
    if place == "tags":
        return extract_single_answer(completion.text)
    if place == "boxed":
        return last_boxed(completion.text.rpartition("</think>")[2])
    return find_answer(completion.text, place) or None


def gold_answer(completion: Completion) -> Answer:
    """Returns the true answer of a completion's sample.

    Raises:
        UserError: The sample has none.
    """
    if completion.sample.answer is None:
        raise UserError(f"sample {_named(completion)} has no answer to compare with")
    return completion.sample.answer


def gold_value(completion: Completion, read: Callable[[Answer], Value]) -> Value:
    """Reads the true value of a completion's sample.

    Args:
        completion: The completion.
        read: Reads an answer, with a ``UserError`` where it cannot.

    Raises:
        UserError: The sample has no answer or one that cannot be read; the message names it.
    """
    answer = gold_answer(completion)
    try:
        return read(answer)
    except UserError as error:
        raise UserError(f"sample {_named(completion)}: {error}") from error


def _named(completion: Completion) -> str:
    origin = completion.sample.meta.origin
    return repr(completion.sample.id) + (f" ({origin})" if origin else "")
