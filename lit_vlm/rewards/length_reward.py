"""Rewards that look at how long a completion is, in sampled tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.completion_reward import CompletionReward


@dataclass(frozen=True)
class SoftOverlongReward(CompletionReward):
    """Falls in a line from 0 to -1 over the last ``margin_tokens`` before ``max_tokens``, and stays there.

    Source:
        DAPO (2025), equation 13; TRL ``trl/rewards/other_rewards.py`` (confirmed-in-code).
    """

    max_tokens: int
    """Length from which the reward is -1."""
    margin_tokens: int
    """How far before ``max_tokens`` it begins to fall."""

    def __post_init__(self) -> None:
        if not 0 < self.margin_tokens <= self.max_tokens:
            raise UserError(
                f"margin_tokens is {self.margin_tokens} and max_tokens {self.max_tokens}; the margin must be above 0 "
                "and at most the length"
            )

    def score(self, completion: Completion) -> float:
        """Scores the length."""
        allowed = self.max_tokens - self.margin_tokens
        return -min(max(completion.token_count - allowed, 0) / self.margin_tokens, 1.0)


@dataclass(frozen=True)
class CosineLengthReward(CompletionReward):
    """Follows half a cosine from a value for length 0 to one for ``max_tokens``, by whether the answer is right.

    By default short right answers earn more than long ones, and short wrong ones cost more.

    Source:
        Yeo et al., Demystifying Long Chain-of-Thought Reasoning (2025); TRL ``trl/rewards/accuracy_rewards.py``
        (confirmed-in-code). There the reward rises again beyond ``max_tokens``; here it stays.
    """

    max_tokens: int
    """Length at which the last value is reached."""
    right_at_zero: float = 1.0
    """Reward of a right answer of length 0."""
    right_at_max: float = 0.5
    """Reward of a right answer of ``max_tokens`` or more."""
    wrong_at_zero: float = -1.0
    """Reward of a wrong answer of length 0."""
    wrong_at_max: float = -0.5
    """Reward of a wrong answer of ``max_tokens`` or more."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; give at least 1")

    def score(self, completion: Completion) -> float:
        """Scores the length.

        Raises:
            UserError: The sample has no answer to compare with.
        """
        right = _is_right(completion)
        first, last = (self.right_at_zero, self.right_at_max) if right else (self.wrong_at_zero, self.wrong_at_max)
        share = min(completion.token_count / self.max_tokens, 1.0)
        return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class LengthBonusReward(Reward):
    """Gives a bonus to right completions of a wanted length, where at least two of the group are right.

    It does not apply where there are no groups, as in validation.

    Source:
        Video-R1 ``trainer/grpo_trainer.py`` (confirmed-in-code).
    """

    needs_groups: ClassVar[bool] = True

    min_tokens: int = 320
    """Least length with a bonus."""
    max_tokens: int = 512
    """Greatest length with a bonus."""
    bonus: float = 0.2
    """What such a completion earns."""
    accuracy: Reward | None = None
    """Says what is right: a score above 0.1; None for the verdict."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise UserError(f"min_tokens is {self.min_tokens} and max_tokens {self.max_tokens}; put them in order")

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Scores the lengths, group by group.

        Raises:
            UserError: A sample has no answer to compare with.
        """
        if not context.group_of:
            return RewardOutput.of_scores([None] * len(completions))
        if self.accuracy is None:
            right = [_is_right(completion) for completion in completions]
        else:
            right = (self.accuracy(completions, context).total > 0.1).tolist()
        right_groups = [group for group, is_right in zip(context.group_of, right, strict=True) if is_right]
        return RewardOutput.of_scores(
            [
                self.bonus
                if is_right
                and right_groups.count(group) > 1
                and self.min_tokens <= completion.token_count <= self.max_tokens
                else 0.0
                for completion, is_right, group in zip(completions, right, context.group_of, strict=True)
            ]
        )


def _is_right(completion: Completion) -> bool:
    if completion.verdict is None:
        raise UserError(f"sample {completion.sample.id!r} has no answer, so right and wrong cannot be told apart")
    return completion.verdict.correct
