"""Watches how sure of itself the policy becomes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_vlm.callbacks.coefficient_schedule import check_reach
from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.functional.entropy_profile import EntropyProfile, PositionBins
from lit_vlm.functional.log_histogram import histogram_quantile, upper_edges
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Iteration

logger = logging.getLogger(__name__)

QUANTILES = (10, 50, 90)
"""In percent."""
BONUS = "entropy_bonus"
PositionKind = Literal["relative", "absolute"]


@dataclass(frozen=True)
class EntropyBonus:
    """Turns the coefficient ``entropy_bonus`` so that the mean entropy stays near a target.

    After each round the bonus grows by ``rate * clip((target - entropy) / target, -1, 1)``, within its bounds: in a
    line while the entropy is far below the target, less and less near it, and down again above it.
    """

    target: float
    """Mean entropy to keep, in nats a token."""
    rate: float = 1e-3
    """Growth of the bonus in a round without any entropy."""
    lowest: float = 0.0
    """Bonus below which it does not fall."""
    highest: float = 0.01
    """Bonus above which it does not grow."""

    def __post_init__(self) -> None:
        if not (0 < self.target < math.inf and 0 < self.rate < math.inf):
            raise UserError(f"bonus has target {self.target} and rate {self.rate}; give positive numbers")
        if not 0 <= self.lowest < self.highest < math.inf:
            raise UserError(
                f"bonus has lowest {self.lowest} and highest {self.highest}; they must be finite, with "
                "0 <= lowest < highest"
            )

    def next(self, bonus: float, entropy: float) -> float:
        """Computes the bonus that follows a round of this mean entropy."""
        shortfall = min(max((self.target - entropy) / self.target, -1.0), 1.0)
        return min(max(bonus + self.rate * shortfall, self.lowest), self.highest)


class EntropyMonitor(RolloutCallback):
    """Logs the entropy of the policy's next-token distributions where it sampled, each round, over all ranks.

    In nats: ``entropy/mean``, ``entropy/quantile_10``, ``_50`` and ``_90`` (from a histogram whose bins grow by 2 %, so
    within 2 %), ``entropy/position_00`` and on (the course along a completion), and ``entropy/high_share``, the share
    of tokens above a threshold: the forks where a chain of thought may turn. TensorBoard gets the histogram too. All
    sampled completions count, those of groups that are filtered away included. The mean is that of the sampling
    temperature, before top-p and the like.

    Where the mean stays below a floor for ``patience`` rounds in a row, the policy has collapsed: a warning says so
    once, and by option training stops.

    Args:
        positions: ``relative``: bins are equal shares of a completion; ``absolute``: of ``position_tokens`` each.
        position_bins: Bins of the course.
        position_tokens: Tokens of a bin with ``absolute``; the last bin takes all that follow.
        high_entropy: Threshold of a high entropy, in nats; None: what ``high_entropy_share`` of the tokens of the first
            ``calibration_rounds`` rounds exceed, from the round after them on.
        high_entropy_share: That share, in (0, 1).
        calibration_rounds: Rounds that show how the run began.
        floor: Mean entropy below which a policy counts as collapsed, in nats; None: ``floor_share`` of the mean of the
            first ``calibration_rounds`` rounds.
        floor_share: That share, in [0, 1); 0 never warns.
        patience: Rounds in a row below the floor.
        stop: Whether to stop training then.
        bonus: Turns the coefficient ``entropy_bonus`` towards a target; None leaves it alone.
        histogram_every_n_rounds: Rounds from one histogram to the next; 0 draws none.

    Source:
        Wang et al., Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM
        Reasoning (2025): the 20 % of the highest entropy. The threshold of the run's beginning, the alarm and the
        controller of the bonus are ours.
    """

    def __init__(
        self,
        *,
        positions: PositionKind = "relative",
        position_bins: int = 10,
        position_tokens: int = 32,
        high_entropy: float | None = None,
        high_entropy_share: float = 0.2,
        calibration_rounds: int = 5,
        floor: float | None = None,
        floor_share: float = 0.1,
        patience: int = 5,
        stop: bool = False,
        bonus: EntropyBonus | None = None,
        histogram_every_n_rounds: int = 10,
    ) -> None:
        super().__init__()
        if positions not in get_args(PositionKind):
            raise UserError(f"EntropyMonitor.positions is {positions!r}; it must be relative or absolute")
        for name, number in (
            ("position_bins", position_bins),
            ("position_tokens", position_tokens),
            ("calibration_rounds", calibration_rounds),
            ("patience", patience),
        ):
            if number < 1:
                raise UserError(f"EntropyMonitor.{name} is {number}; give at least 1")
        for name, value in (("high_entropy", high_entropy), ("floor", floor)):
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"EntropyMonitor.{name} is {value}; give nats, at least 0")
        if not 0 < high_entropy_share < 1 or not 0 <= floor_share < 1:
            raise UserError(
                f"EntropyMonitor has high_entropy_share {high_entropy_share} and floor_share {floor_share}; the first "
                "must lie in (0, 1), the second in [0, 1)"
            )
        if histogram_every_n_rounds < 0:
            raise UserError(
                f"EntropyMonitor.histogram_every_n_rounds is {histogram_every_n_rounds}; give 0 for none, or more"
            )
        self.positions = PositionBins(position_bins, None if positions == "relative" else position_tokens)
        self.high_entropy_share = high_entropy_share
        self.calibration_rounds = calibration_rounds
        self.floor_share = floor_share
        self.patience = patience
        self.stop = stop
        self.bonus = bonus
        self.histogram_every_n_rounds = histogram_every_n_rounds
        self.rounds = 0
        self.low_rounds = 0
        self.high_entropy = high_entropy
        self.floor = floor
        self._learns_threshold = high_entropy is None
        self._learns_floor = floor is None
        self._beginning = EntropyProfile.empty(0)
        self._gathered = EntropyProfile.empty(position_bins)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the bonus may be turned, where it is to be.

        Raises:
            UserError: It may not.
        """
        super().setup(trainer, pl_module, stage)
        self._gathered = EntropyProfile.empty(self.positions.count)
        if stage == "fit" and self.bonus is not None:
            reach = (self.bonus.lowest, self.bonus.highest)
            check_reach(self.coefficients_of(pl_module), BONUS, *reach, "EntropyMonitor.bonus")

    def on_after_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Adds up the entropies of this rank.

        Raises:
            UserError: The rollout engine tells none.
        """
        rollouts = iteration.rollouts
        if rollouts is None or not len(rollouts):
            return
        if rollouts.entropies is None:
            raise UserError("EntropyMonitor needs entropies, which this rollout engine does not tell; leave it out")
        self._gathered += EntropyProfile.of(rollouts.entropies, rollouts.mask, self.positions, self.high_entropy)

    def on_after_update(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Logs the round, raises the alarm, and turns the bonus."""
        profile = EntropyProfile(self.sum_over_ranks(trainer, self._gathered.values))
        self._gathered = EntropyProfile.empty(self.positions.count)
        if not profile.tokens:
            return
        self._log(trainer, pl_module, profile)
        self.rounds += 1
        self._learn_beginning(profile)
        self._watch(trainer, profile.mean)
        if self.bonus is not None:
            coefficients = self.coefficients_of(pl_module)
            coefficients.set(BONUS, self.bonus.next(coefficients[BONUS], profile.mean))

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts, the threshold, the floor and what they are still to be made from."""
        return {
            "rounds": self.rounds,
            "low_rounds": self.low_rounds,
            "high_entropy": self.high_entropy,
            "floor": self.floor,
            "beginning": self._beginning.values.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an earlier run, with the threshold and the floor that it found, where none are given now."""
        self.rounds = state_dict["rounds"]
        self.low_rounds = state_dict["low_rounds"]
        if self._learns_threshold:
            self.high_entropy = state_dict["high_entropy"]
        if self._learns_floor:
            self.floor = state_dict["floor"]
        self._beginning = EntropyProfile(state_dict["beginning"].clone())

    def _log(self, trainer: Trainer, pl_module: LightningModule, profile: EntropyProfile) -> None:
        figures: dict[str, float | None] = {"mean": profile.mean}
        for percent in QUANTILES:
            figures[f"quantile_{percent}"] = histogram_quantile(profile.histogram, percent / 100)
        if self.high_entropy is not None:
            figures["high_share"] = profile.high_share
        digits = max(2, len(str(self.positions.count - 1)))
        for place, mean in enumerate(profile.course()):
            figures[f"position_{place:0{digits}d}"] = mean
        for name, value in figures.items():
            if value is not None:
                self.log_figure(pl_module, f"entropy/{name}", value)
        if self.histogram_every_n_rounds and self.rounds % self.histogram_every_n_rounds == 0:
            _draw_histogram(trainer, profile)

    def _learn_beginning(self, profile: EntropyProfile) -> None:
        if self.rounds > self.calibration_rounds:
            return
        self._beginning += EntropyProfile(profile.values[: len(self._beginning.values)])
        if self.rounds == self.calibration_rounds:
            if self._learns_threshold:
                self.high_entropy = histogram_quantile(self._beginning.histogram, 1 - self.high_entropy_share)
            if self._learns_floor:
                self.floor = self.floor_share * self._beginning.mean

    def _watch(self, trainer: Trainer, mean: float) -> None:
        is_low = self.floor is not None and mean < self.floor
        self.low_rounds = self.low_rounds + 1 if is_low else 0
        if self.floor is None or self.low_rounds < self.patience or (self.low_rounds > self.patience and not self.stop):
            return
        trainer.should_stop = trainer.should_stop or self.stop
        if trainer.is_global_zero:
            logger.warning(
                "%sthe policy's mean entropy is %.4g nats, below the floor of %.4g for %d rounds in a row; raise "
                "entropy_bonus, clip_high, kl or the temperature, or lower the learning rate",
                "training stops: " if self.stop else "",
                mean,
                self.floor,
                self.low_rounds,
            )


def _draw_histogram(trainer: Trainer, profile: EntropyProfile) -> None:
    for board in trainer.loggers:
        if isinstance(board, TensorBoardLogger) and trainer.is_global_zero:
            filled = torch.nonzero(profile.histogram).flatten()
            first, last = max(0, int(filled[0]) - 1), int(filled[-1]) + 1
            edges = upper_edges()[first:last]
            board.experiment.add_histogram_raw(
                "entropy/tokens",
                min=float(edges[0]),
                max=float(edges[-1]),
                num=profile.tokens,
                sum=profile.total,
                sum_squares=profile.squares,
                bucket_limits=edges.tolist(),
                bucket_counts=profile.histogram[first:last].tolist(),
                global_step=trainer.global_step,
            )
