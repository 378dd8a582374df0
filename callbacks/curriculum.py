"""The base of curricula: how well each kind of sample goes, and which are drawn next.

Legend: ``A`` arms, which are what samples are drawn by.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.interfaces.capabilities import ArmKind, SteeredData, arm_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.rollouts import Iteration

CORRECT = "correct"
MOST_LOGGED_ARMS = 50
REWARD = "reward/"


class Curriculum(RolloutCallback, ABC):
    """Counts each arm's attempts and successes over all ranks, and steers the DataModule after each round.

    A member says with which probabilities arms are drawn, in ``probabilities``, from the step and from what this class
    keeps: ``attempts``, ``successes`` and ``success_rates``. Batches that are read ahead already stay as they are.

    Logged, where there are 50 arms or fewer: ``curriculum/ARM``, its share of what is drawn, and
    ``curriculum/success/ARM``, its success rate, once it was tried. Always: ``curriculum/arms_tried``, the share of the
    arms that were, and ``curriculum/effective_arms``, the exponential of the entropy of the shares.

    Args:
        by: ``category``, ``difficulty`` or ``sample``: what an arm is.
        success: ``correct``: an attempt succeeds where its verdict is right; or the name of a reward within [0, 1],
            whose value is the success. Completions without one are no attempts.
        smoothing: Weight of a round's mean in the success rate of an arm that was tried in it, in (0, 1].
        every_n_rounds: Rounds from one steering to the next.
    """

    def __init__(self, by: ArmKind, *, success: str = CORRECT, smoothing: float = 0.3, every_n_rounds: int = 1) -> None:
        super().__init__()
        name = type(self).__name__
        if by not in get_args(ArmKind):
            raise UserError(f"{name}.by is {by!r}; it must be one of {', '.join(get_args(ArmKind))}")
        if not 0 < smoothing <= 1:
            raise UserError(f"{name}.smoothing is {smoothing}; it must lie in (0, 1]")
        if every_n_rounds < 1:
            raise UserError(f"{name}.every_n_rounds is {every_n_rounds}; give at least 1")
        self.by: ArmKind = by
        self.success = success
        self.smoothing = smoothing
        self.every_n_rounds = every_n_rounds
        self.arms: tuple[str, ...] = ()
        """Names in the DataModule's order, ``A`` of them."""
        self.attempts = torch.zeros(0, dtype=torch.float64)
        """Attempts of each arm so far, shape ``(A,)``."""
        self.successes = torch.zeros(0, dtype=torch.float64)
        """Sum of their successes, shape ``(A,)``."""
        self.rounds = 0
        self.step = 0
        """Optimizer steps at the last steering."""
        self._smoothed = torch.zeros(0, dtype=torch.float64)
        self._smoothed_weight = torch.zeros(0, dtype=torch.float64)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._pending_completions = 0
        self._place: dict[str, int] = {}
        self._digest = ""
        self._data: SteeredData | None = None
        self._steered: Tensor | None = None

    @abstractmethod
    def probabilities(self, step: int) -> Mapping[str, float]:
        """Computes with which probabilities arms are drawn; the same on all ranks.

        Args:
            step: Optimizer steps taken so far.

        Returns:
            By arm, none negative, at least one positive; they need not add up to 1, and arms left out have none.
        """

    def learn(self) -> None:
        """Runs after each round, when the statistics hold it; a member may keep something of its own here."""

    def success_rates(self, prior: float | None = None) -> Tensor:
        """Returns each arm's running success rate: an exponential moving average over the rounds that tried it.

        Args:
            prior: Where the average begins, which is what untried arms have; None: it begins at the first round's mean,
                and untried arms have NaN.

        Returns:
            Shape ``(A,)``, float64.
        """
        if prior is None:
            return self._smoothed / self._smoothed_weight
        return self._smoothed + (1 - self._smoothed_weight) * prior

    def by_arm(self, weights: Tensor) -> dict[str, float]:
        """Names the numbers of a tensor of shape ``(A,)`` by their arms."""
        return dict(zip(self.arms, weights.tolist(), strict=True))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Asks the DataModule for its arms.

        Raises:
            UserError: It cannot be steered or has one arm only, or there is no such reward.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        name = type(self).__name__
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, SteeredData):
            given = "there is no DataModule" if data is None else f"{type(data).__name__} cannot"
            raise UserError(
                f"{name} steers which samples are drawn, but {given}; give data with arms and steer, such as "
                "DigitsReasoning, or leave the callback out"
            )
        rewards = [key.removeprefix(REWARD) for key in self.coefficients_of(pl_module) if key.startswith(REWARD)]
        if self.success != CORRECT and rewards and self.success not in rewards:
            raise UserError(f"{name}.success is {self.success!r}; give {CORRECT} or a reward: {', '.join(rewards)}")
        self._data = data
        self._take_arms(tuple(data.arms(self.by)))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Steers what the loaders read first; later it would come after batches that are read ahead."""
        if self._steered is None:
            self._steer(self.step)
        else:
            self._send(self._steered)

    def on_after_rewards(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Keeps the attempts of this rank until the round is over.

        Raises:
            UserError: A sample belongs to no known arm, or a success lies outside [0, 1].
        """
        rollouts = iteration.rollouts
        if rollouts is None or not len(rollouts):
            return
        values = self._successes_of(iteration)
        tried = ~values.isnan()
        outside = tried & ((values < 0) | (values > 1))
        if outside.any():
            row = int(outside.nonzero()[0])
            raise UserError(
                f"{type(self).__name__}.success is {self.success!r}, which gives {rollouts.completions[row].sample.id} "
                f"{float(values[row]):g}; a success lies in [0, 1]"
            )
        places = torch.tensor([self._place_of(item.sample) for item in rollouts.completions])
        self._pending.append((places[tried], values[tried]))
        self._pending_completions += len(rollouts)

    def on_after_update(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Adds the round to the statistics, over all ranks, and steers.

        Raises:
            UserError: The first round has no attempt.
        """
        count = len(self.arms)
        sums = torch.zeros(2 * count + 1, dtype=torch.float64)
        for places, values in self._pending:
            sums[:count].index_add_(0, places, torch.ones_like(values))
            sums[count : 2 * count].index_add_(0, places, values)
        sums[-1] = self._pending_completions
        self._pending, self._pending_completions = [], 0
        sums = self.sum_over_ranks(trainer, sums)
        attempts, successes = sums[:count], sums[count : 2 * count]
        if sums[-1] > 0 and not attempts.any() and not self.attempts.any():
            raise UserError(
                f"{type(self).__name__} finds no success or failure ({self.success}) in the first round's "
                f"{int(sums[-1])} completions; set success to {CORRECT} where samples have answers, else to a reward"
            )
        self._add(attempts, successes)
        self.rounds += 1
        self.learn()
        self._log(pl_module)
        if self.rounds % self.every_n_rounds == 0:
            self._steer(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Returns the statistics."""
        return {
            "rounds": self.rounds,
            "step": self.step,
            "arms": self._digest,
            "attempts": self.attempts.clone(),
            "successes": self.successes.clone(),
            "smoothed": self._smoothed.clone(),
            "smoothed_weight": self._smoothed_weight.clone(),
            "steered": None if self._steered is None else self._steered.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an earlier run of the same arms.

        Raises:
            UserError: The arms are others.
        """
        if self._digest and state_dict["arms"] != self._digest:
            raise UserError(
                f"the checkpoint's {type(self).__name__} knows {len(state_dict['attempts'])} arms, which are not the "
                f"{len(self.arms)} of the data at hand; resume with the same data"
            )
        self.rounds = state_dict["rounds"]
        self.step = state_dict["step"]
        self.attempts = state_dict["attempts"].clone()
        self.successes = state_dict["successes"].clone()
        self._smoothed = state_dict["smoothed"].clone()
        self._smoothed_weight = state_dict["smoothed_weight"].clone()
        was_steered, self._steered = self._steered is not None, state_dict["steered"]
        # Strategies that restore late do so after on_fit_start.
        if was_steered and self._steered is not None:
            self._send(self._steered)

    def _take_arms(self, arms: tuple[str, ...]) -> None:
        if len(arms) < 2:
            raise UserError(
                f"{type(self).__name__} draws by {self.by}, of which the data have {len(arms)} "
                f"({', '.join(arms) or 'none'}); it needs two or more"
            )
        digest = hashlib.sha256("\0".join(arms).encode()).hexdigest()
        if digest == self._digest:
            return
        self.arms, self._digest = arms, digest
        self._place = {arm: place for place, arm in enumerate(arms)}
        zeros = torch.zeros(len(arms), dtype=torch.float64)
        self.attempts, self.successes = zeros.clone(), zeros.clone()
        self._smoothed, self._smoothed_weight = zeros.clone(), zeros.clone()

    def _place_of(self, sample: Sample) -> int:
        arm = arm_of(sample, self.by)
        if arm not in self._place:
            raise UserError(f"{sample.id} belongs to the {self.by} {arm!r}, which the DataModule does not list")
        return self._place[arm]

    def _successes_of(self, iteration: Iteration) -> Tensor:
        """Returns the success of each completion, NaN where there is none, float64."""
        rollouts, rewards = iteration.rollouts, iteration.rewards
        if rollouts is None or rewards is None:
            raise RuntimeError("there are no rewards yet")
        if self.success == CORRECT:
            verdicts = [item.verdict for item in rollouts.completions]
            return torch.tensor(
                [math.nan if verdict is None else float(verdict.correct) for verdict in verdicts], dtype=torch.float64
            )
        if self.success not in rewards.names:
            known = ", ".join(rewards.names)
            raise UserError(f"{type(self).__name__}.success is {self.success!r}; give {CORRECT} or a reward: {known}")
        return rewards.parts[:, rewards.names.index(self.success)].cpu().double()

    def _add(self, attempts: Tensor, successes: Tensor) -> None:
        self.attempts = self.attempts + attempts
        self.successes = self.successes + successes
        tried = attempts > 0
        means = successes / attempts.clamp(min=1)
        kept = 1 - self.smoothing
        self._smoothed = torch.where(tried, kept * self._smoothed + self.smoothing * means, self._smoothed)
        self._smoothed_weight = torch.where(tried, kept * self._smoothed_weight + self.smoothing, self._smoothed_weight)

    def _steer(self, step: int) -> None:
        self.step = step
        wanted = self.probabilities(step)
        if unknown := wanted.keys() - self._place.keys():
            raise UserError(f"{type(self).__name__} draws {min(unknown)!r}, which the DataModule does not list")
        shares = torch.tensor([wanted.get(arm, 0.0) for arm in self.arms], dtype=torch.float64)
        if self._steered is None or not torch.equal(shares, self._steered):
            self._steered = shares
            self._send(shares)

    def _send(self, shares: Tensor) -> None:
        if self._data is None:
            raise RuntimeError("there is no DataModule before setup")
        self._data.steer(self.by, self.by_arm(shares))

    def _log(self, pl_module: LightningModule) -> None:
        for name, value in self._figures():
            self.log_figure(pl_module, f"curriculum/{name}", value)

    def _figures(self) -> Iterator[tuple[str, float]]:
        yield "arms_tried", float((self.attempts > 0).double().mean())
        if self._steered is None:
            return
        shares = self._steered / self._steered.sum()
        yield "effective_arms", float(torch.special.entr(shares).sum().exp())
        if len(self.arms) <= MOST_LOGGED_ARMS:
            yield from zip(self.arms, shares.tolist(), strict=True)
            for arm, rate in zip(self.arms, self.success_rates().tolist(), strict=True):
                if not math.isnan(rate):
                    yield f"success/{arm}", rate
