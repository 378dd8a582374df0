"""Rewards numbers: exact, graded by their relative error, counts."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Completion
from lit_vlm.parsing.answer_text import peel
from lit_vlm.parsing.ground_truth import true_texts
from lit_vlm.parsing.plain_numbers import parse_number
from lit_vlm.rewards.completion_reward import CompletionReward, answer_text, gold_value

Kind = Literal["exact", "regression", "mra", "count", "count_soft"]

_THRESHOLDS = [Fraction(5 * step, 100) for step in range(10, 0, -1)]  # 0.50, 0.45, …, 0.05
_SLACK = Fraction(1, 10**9)


@dataclass(frozen=True)
class NumberReward(CompletionReward):
    """Scores a number ``p`` against the true one ``g``, in [0, 1]; 0 for an answer that is no number.

    Source:
        ``exact`` and ``regression``: Video-R1 ``src/r1-v/src/open_r1/grpo.py``, which adds 1e-9 to the error too, so
        that a perfect answer to 0 scores 0 there; ``mra``: Video2Layout ``examples/reward_function/qa.py``, which has
        no slack, so that 9 for 10 gives 0.8 there (confirmed-in-code). ``count_soft`` is ours. We compute in exact
        fractions.
    """

    kind: Kind = "exact"
    """``exact``: equal to 2 decimals; ``regression``: ``1 - min(1, |p-g| / |g|)``; ``mra``: share of the thresholds
    0.50, 0.45, … 0.05 that the relative error keeps (the absolute one for g = 0); ``count``: equal integers;
    ``count_soft``: ``max(0, 1 - |p-g| / max(|g|, 1))``."""
    strict: bool = False
    """Whether ``mra`` wants the error below a threshold, as VSI-Bench and SpaceR do, rather than at most there."""
    same_notation: bool = False
    """Whether ``exact`` gives 0 where just one of the two texts has a ``.`` or ``,``, as Video-R1 does."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"kind is {self.kind!r}; give one of {', '.join(get_args(Kind))}")

    def score(self, completion: Completion) -> float:
        """Compares the number with the true one and the other accepted ones; the best counts.

        Raises:
            UserError: The true answer is no number; the message names the sample.
        """
        golds = gold_value(completion, _true_numbers)
        text = answer_text(completion)
        number = None if text is None else parse_number(peel(text))
        if text is None or number is None:
            return 0.0
        return max(self._compared(number, text, *gold) for gold in golds)

    def _compared(self, given: Fraction, text: str, gold: Fraction, gold_text: str) -> float:
        error = abs(given - gold)
        match self.kind:
            case "exact":
                alike = any(mark in text for mark in ".,") == any(mark in gold_text for mark in ".,")
                return float(round(given, 2) == round(gold, 2) and (alike or not self.same_notation))
            case "regression":
                return 1.0 if error == 0 else float(1 - min(Fraction(1), error / max(abs(gold), _SLACK)))
            case "mra":
                relative = error / abs(gold) if gold else error
                kept = [relative < bound if self.strict else relative <= bound + _SLACK for bound in _THRESHOLDS]
                return sum(kept) / len(kept)
            case "count":
                return float(error == 0 and given.denominator == 1)
            case _:
                return float(max(Fraction(0), 1 - error / max(abs(gold), Fraction(1))))


def _true_numbers(answer: Answer) -> list[tuple[Fraction, str]]:
    numbers = []
    for text in true_texts(answer):
        number = parse_number(peel(text))
        if number is None:
            raise UserError(f"the true answer {text!r} is no number; mend it where the data set is read")
        numbers.append((number, text))
    return numbers
