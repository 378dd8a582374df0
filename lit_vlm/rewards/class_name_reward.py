"""Rewards the right name of a class."""

import unicodedata
from dataclasses import dataclass
from typing import Literal

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Completion
from lit_vlm.parsing.answer_text import peel
from lit_vlm.parsing.ground_truth import true_texts
from lit_vlm.rewards.completion_reward import CompletionReward, answer_text, gold_value

_LONGEST_RATIO = 3


@dataclass(frozen=True)
class ClassNameReward(CompletionReward):
    """Gives 1 for the name of the class or an accepted synonym, else 0.

    White space, ``_``, ``-``, case and a final dot do not matter.

    Source:
        Visual-RFT ``src/virft/src/open_r1/grpo_classification.py`` (confirmed-in-code). There, one name need only
        contain the other, which pays for an empty answer and for one that lists every class; the guards of
        ``contains`` are ours.
    """

    mode: Literal["equal", "contains"] = "equal"
    """``equal``: the names are the same; ``contains``: one contains the other, and the answer is at most 3 times as
    long as the name."""

    def __post_init__(self) -> None:
        if self.mode not in ("equal", "contains"):
            raise UserError(f"mode is {self.mode!r}; give equal or contains")

    def score(self, completion: Completion) -> float:
        """Compares the name.

        Raises:
            UserError: A sample has no class name; the message names it.
        """
        golds = gold_value(completion, _true_names)
        name = _comparable_name(answer_text(completion) or "")
        if not name:
            return 0.0
        if self.mode == "equal":
            return float(name in golds)
        return float(any(len(name) <= _LONGEST_RATIO * len(gold) and (name in gold or gold in name) for gold in golds))


def _true_names(answer: Answer) -> list[str]:
    names = [_comparable_name(text) for text in true_texts(answer)]
    if not all(names):
        raise UserError(f"a class name among {true_texts(answer)} is empty; mend it where the data set is read")
    return names


def _comparable_name(text: str) -> str:
    folded = unicodedata.normalize("NFC", peel(text)).casefold().rstrip(" .")
    return "".join(character for character in folded if not character.isspace() and character not in "_-")
