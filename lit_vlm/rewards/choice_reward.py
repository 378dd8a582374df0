"""Rewards the right letter of a multiple choice."""

from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion
from lit_vlm.parsing.choice_letters import choice_letter
from lit_vlm.parsing.ground_truth import true_letter
from lit_vlm.rewards.completion_reward import CompletionReward, answer_text, gold_answer, gold_value

Mode = Literal["robust", "first_char", "exact"]


@dataclass(frozen=True)
class ChoiceReward(CompletionReward):
    """Gives 1 for the right choice, else 0.

    Source:
        ``first_char``: SEED-Bench-R1 ``grpo.py``; ``exact``: Video-R1 ``grpo.py`` (both confirmed-in-code);
        ``robust`` is ours.
    """

    mode: Mode = "robust"
    """``robust``: the letter that the answer chooses, see ``choice_letter``; ``first_char``: the first characters are
    equal; ``exact``: the texts are equal."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UserError(f"mode is {self.mode!r}; give one of {', '.join(get_args(Mode))}")

    def score(self, completion: Completion) -> float:
        """Compares the choice.

        Raises:
            UserError: The true choice is none of the options; the message names the sample.
        """
        letter = gold_value(completion, true_letter)
        answer, given = gold_answer(completion), answer_text(completion)
        if given is None:
            return 0.0
        if self.mode == "robust":
            return float(choice_letter(given, answer.options) == letter)
        gold = str(answer.value).strip()
        return float(given[:1] == gold[:1] if self.mode == "first_char" else given == gold)
