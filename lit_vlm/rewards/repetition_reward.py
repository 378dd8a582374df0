"""Punishes repetition."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext


@dataclass(frozen=True)
class RepetitionReward(Reward):
    """Gives ``penalty`` times the share of n-grams of tokens that occurred before, 0 for fewer than ``n`` tokens.

    It does not apply where the sampled tokens are not kept, as in validation.

    Source:
        TRL ``trl/rewards/other_rewards.py`` (confirmed-in-code).
    """

    n: int = 3
    """Tokens of an n-gram, at least 1."""
    penalty: float = -1.0
    """Reward of endless repetition, 0 or less."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n is {self.n}; give at least 1")
        if not self.penalty <= 0:
            raise UserError(f"penalty is {self.penalty}; give 0 or less")

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Scores the tokens of each completion."""
        if not context.token_ids:
            return RewardOutput.of_scores([None] * len(completions))
        return RewardOutput.of_scores([self._of(ids) for ids in context.token_ids])

    def _of(self, token_ids: Sequence[int]) -> float:
        count = len(token_ids) - self.n + 1
        if count < 1:
            return 0.0
        distinct = len({tuple(token_ids[start : start + self.n]) for start in range(count)})
        return self.penalty * (1 - distinct / count)
