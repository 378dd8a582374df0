"""Several rewards, each with a weight, as one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext, Rewards
from lit_vlm.rewards.reward_pool import RewardPool
from lit_vlm.rewards.reward_run import RewardRun, run_reward

FAILED = "failed"
"""Detail of a reward that says which completions it could not score."""


@dataclass(frozen=True)
class RewardGate:
    """Lets a reward count only where another one is high enough."""

    on: str
    """Name of the other reward; its own value counts, before its gate and scale."""
    above: float = 0.0
    """The other reward must be above this, else this one becomes 0; where the other does not apply, nor does this."""


@dataclass(frozen=True)
class RewardScale:
    """Maps one range to another in a straight line."""

    from_low: float = 0.0
    """Becomes ``to_low``."""
    from_high: float = 1.0
    """Becomes ``to_high``."""
    to_low: float = 0.0
    """What ``from_low`` becomes."""
    to_high: float = 1.0
    """What ``from_high`` becomes."""
    clip: bool = True
    """Whether the result stays between ``to_low`` and ``to_high``."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.from_high - self.from_low) or self.from_low == self.from_high:
            raise UserError(f"from_low and from_high are both {self.from_low}, or not finite; a scale needs a range")

    def __call__(self, rewards: Tensor) -> Tensor:
        """Maps each reward; NaN stays."""
        share = (rewards - self.from_low) / (self.from_high - self.from_low)
        mapped = self.to_low + share * (self.to_high - self.to_low)
        return mapped.clamp(*sorted((self.to_low, self.to_high))) if self.clip else mapped


@dataclass(frozen=True)
class WeightedReward:
    """A reward among others."""

    name: str
    """Names it in the log, in gates and as the coefficient ``reward/NAME``."""
    reward: Reward
    """What scores."""
    weight: float = 1.0
    """Factor in the sum; negative for a penalty."""
    gate: RewardGate | None = None
    """Where it counts; None for everywhere."""
    scale: RewardScale | None = None
    """Maps it to another range, before gate and weight."""
    timeout: float | None = None
    """Seconds that a completion may take; with it the reward runs in processes of its own that can be stopped."""
    workers: int = 2
    """How many such processes, on each rank."""
    on_error: Literal["stop", "unscorable"] = "stop"
    """What happens where it raises, takes too long or gives no number: the run stops, or the completion counts as
    unscorable, for all rewards."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise UserError(f"a reward's name is {self.name!r}; it must have a letter at least, and no '/'")
        if not math.isfinite(self.weight):
            raise UserError(f"the weight of the reward {self.name!r} is {self.weight}; give a number")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise UserError(f"the timeout of the reward {self.name!r} is {self.timeout}; give seconds above 0")
        if self.workers < 1:
            raise UserError(f"the reward {self.name!r} has {self.workers} workers; it needs at least 1")
        if self.on_error not in ("stop", "unscorable"):
            raise UserError(f"on_error of the reward {self.name!r} is {self.on_error!r}; give stop or unscorable")

    def run(self, completions: Sequence[Completion], context: RewardContext) -> RewardRun:
        """Scores completions, in processes of its own where there is a time limit.

        Raises:
            UserError: A completion could not be scored and ``on_error`` is ``stop``.
        """
        stops = self.on_error == "stop"
        # One that hangs on all completions would take its time for each.
        run = run_reward(self.reward, completions, context, self._pool, to_the_end=not stops)
        if stops:
            run.stop_at_faults(self.name, completions)
        return run

    @cached_property
    def _pool(self) -> RewardPool | None:
        return None if self.timeout is None else RewardPool(self.reward, self.workers, self.timeout)


@dataclass(frozen=True)
class WeightedRewards(Reward):
    """Adds several rewards up, ``r = Σ_k w_k · R_k`` over those that apply.

    A completion that no reward applies to, or that one could not score, is unscorable: its total is NaN, never 0.
    Normalising each reward before the sum is left to the advantage, which gets the parts.

    Source:
        TRL ``trl/trainer/grpo_trainer.py`` (confirmed-in-code). Gates and scales are ours, after VideoRFT and DeepEyes;
        there a reward that fails stops the run as well, here it may also make the completion unscorable.
    """

    rewards: list[WeightedReward]
    """The rewards; names are unique."""

    def __post_init__(self) -> None:
        names = [item.name for item in self.rewards]
        if not names:
            raise UserError("rewards is empty; name at least one reward")
        if repeated := {name for name in names if names.count(name) > 1}:
            raise UserError(f"several rewards are called {', '.join(sorted(repeated))}; give each a name of its own")
        for item in self.rewards:
            if item.gate is not None and item.gate.on not in set(names) - {item.name}:
                others = ", ".join(name for name in names if name != item.name) or "none"
                raise UserError(f"the gate of {item.name!r} is on {item.gate.on!r}; the other rewards are {others}")

    @classmethod
    def of(cls, reward: Reward) -> "WeightedRewards":
        """Makes a reward that is not one of several into one of weight 1, called ``task``."""
        return reward if isinstance(reward, cls) else cls([WeightedReward("task", reward)])

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the weights, as ``reward/NAME``."""
        return {f"reward/{item.name}": Coefficient(item.weight, low=-math.inf) for item in self.rewards}

    def score(
        self,
        completions: Sequence[Completion],
        context: RewardContext = RewardContext(),
        coefficients: Mapping[str, float] | None = None,
    ) -> Rewards:
        """Scores completions by every reward.

        Args:
            completions: ``B`` of them.
            context: What is known beside them.
            coefficients: Present values of the weights; None for the declared ones.

        Returns:
            All rewards, on the CPU. ``parts`` are after gate and scale; ``details`` are called ``NAME/DETAIL``, and
            ``NAME/failed`` is 1 where that reward could not score, which makes the whole row NaN.

        Raises:
            UserError: A completion could not be scored and the reward's ``on_error`` is ``stop``.
        """
        runs = [item.run(completions, context) for item in self.rewards]
        weights = torch.tensor(
            [item.weight if coefficients is None else coefficients[f"reward/{item.name}"] for item in self.rewards]
        )
        failed = torch.zeros(len(completions), dtype=torch.bool)
        for run in runs:
            failed[list(run.faults)] = True
        gates = self._gates(runs)  # (B, K)
        scales = [item.scale or _unchanged for item in self.rewards]
        own = torch.stack([scale(run.output.total) for scale, run in zip(scales, runs, strict=True)], dim=1)
        parts = (own * gates).where(~failed[:, None], torch.nan)  # (B, K)
        total = (parts.nan_to_num(0.0) * weights).sum(1).where(~parts.isnan().all(1), torch.nan)
        return Rewards(
            total=total,
            parts=parts,
            weights=weights,
            names=tuple(item.name for item in self.rewards),
            details=self._details(runs, len(completions)),
            per_token=_per_token(runs, (weights * gates).where(~parts.isnan(), 0.0)),
        )

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Scores completions with the declared weights; each reward is a detail.

        Raises:
            UserError: As ``score``.
        """
        rewards = self.score(completions, context)
        details = {name: rewards.parts[:, place] for place, name in enumerate(rewards.names)} | rewards.details
        per_token = None
        if rewards.per_token is not None:
            per_token = tuple(row[: len(ids)] for row, ids in zip(rewards.per_token, context.token_ids, strict=True))
        return RewardOutput(rewards.total, details, per_token, applies=~rewards.total.isnan())

    def _gates(self, runs: Sequence[RewardRun]) -> Tensor:
        """Returns 1 where a reward counts, 0 where its gate is shut, NaN where that is unknown; shape ``(B, K)``."""
        places = {item.name: place for place, item in enumerate(self.rewards)}
        columns = []
        for item, run in zip(self.rewards, runs, strict=True):
            if item.gate is None:
                columns.append(torch.ones_like(run.output.total))
            else:
                other = runs[places[item.gate.on]].output.total
                columns.append((other > item.gate.above).float().where(~other.isnan(), torch.nan))
        return torch.stack(columns, dim=1)

    def _details(self, runs: Sequence[RewardRun], count: int) -> dict[str, Tensor]:
        details: dict[str, Tensor] = {}
        for item, run in zip(self.rewards, runs, strict=True):
            details |= {f"{item.name}/{name}": values for name, values in run.output.details.items()}
            if item.on_error == "unscorable":
                details[f"{item.name}/{FAILED}"] = torch.tensor([float(row in run.faults) for row in range(count)])
        return details


def _unchanged(rewards: Tensor) -> Tensor:
    return rewards


def _per_token(runs: Sequence[RewardRun], factors: Tensor) -> Tensor | None:
    """Adds up the rewards of tokens, each times its row's factor of shape ``(B, K)``; None where there are none."""
    summed: Tensor | None = None
    for place, run in enumerate(runs):
        if run.output.per_token is not None:
            padded = torch.nn.utils.rnn.pad_sequence(list(run.output.per_token), batch_first=True)  # (B, T)
            weighted = padded * factors[:, place, None]
            summed = weighted if summed is None else summed + weighted
    return summed
