"""Rewards an answer of the same value, as formulas."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.parsing.answer_text import comparable_text
from lit_vlm.parsing.ground_truth import true_texts
from lit_vlm.parsing.math_equivalence import is_formula, math_counts, math_equal
from lit_vlm.rewards.completion_reward import answer_text, gold_answer, gold_value


@dataclass(frozen=True)
class MathReward(Reward):
    """Gives 1 for an answer whose text or value equals the true one, else 0.

    A comparison that takes too long, or more memory than it may, is stopped and gives 0: such answers are bombs like
    ``9^9^9^9``. The detail ``stopped`` counts them.

    Source:
        TRL ``trl/rewards/accuracy_rewards.py`` (confirmed-in-code). There the whole completion is parsed, so that a
        number in the thought may decide, and true answers that do not parse are skipped; here only the final answer
        counts, and a true number that does not parse is an error.
    """

    timeout: float = 3.0
    """Seconds for one comparison."""

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise UserError(f"timeout is {self.timeout}; give seconds above 0")

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Compares each answer with the true one and the other accepted ones.

        Raises:
            UserError: A sample has no answer, or a number that cannot be read as one; the message names the sample.
        """
        scores: list[float | None] = []
        stopped = []
        for completion in completions:
            before = math_counts()
            scores.append(float(self._is_right(completion)))
            after = math_counts()
            stopped.append(float(after.timeouts + after.crashes > before.timeouts + before.crashes))
        return RewardOutput.of_scores(scores, {"stopped": torch.tensor(stopped)})

    def _is_right(self, completion: Completion) -> bool:
        golds = gold_value(completion, true_texts)
        for gold in golds:
            if gold_answer(completion).type == "number" and not is_formula(gold):
                raise UserError(
                    f"sample {completion.sample.id!r}: the true answer {gold!r} is of type number, but cannot be read "
                    "as a number or formula; mend it, or make it a text"
                )
        given = answer_text(completion)
        if given is None:
            return False
        if any(comparable_text(given) == comparable_text(gold) for gold in golds):
            return True
        return any(math_equal(given, gold, self.timeout) for gold in golds)
