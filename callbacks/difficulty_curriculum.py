"""From easy to hard, by the levels that samples carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule, Trainer

from lit_vlm.callbacks.curriculum import CORRECT, Curriculum
from lit_vlm.interfaces.errors import UserError

Pacing = Literal["steps", "success"]
Window = Literal["up_to", "gaussian"]


class DifficultyCurriculum(Curriculum):
    """Opens one level of difficulty after the other: by optimizer steps, or as each is mastered.

    Levels are counted by their order from 0, whatever their numbers; the newest is at ``L``. With ``pacing: steps`` it
    goes from ``first_levels - 1`` at ``start_step`` in a line to the hardest at ``end_step``; with ``success`` it moves
    on by one after each round in which the success rate of level ``L`` is at least ``threshold``. The window says what
    is drawn then: ``up_to``: all levels that are not above ``L``, in equal shares; ``gaussian``: each with weight
    ``exp(-(level - L)^2 / (2 width^2))``, so that easy ones are left behind.

    Args:
        pacing: ``steps`` or ``success``.
        window: ``up_to`` or ``gaussian``.
        first_levels: Levels that are open at the start.
        start_step: Optimizer steps before ``L`` moves; of ``steps``.
        end_step: Optimizer steps after which it is at the hardest level; None: ``trainer.max_steps``; of ``steps``.
        threshold: Success rate at which the next level opens, in (0, 1]; of ``success``.
        min_attempts: Attempts that a level needs before the next opens; of ``success``.
        width: Standard deviation in levels; of ``gaussian``.
        floor: Share of the draws that is spread evenly over all levels, in [0, 1].
        success: ``correct``, or the name of a reward within [0, 1].
        smoothing: Weight of a round in the success rate.
        every_n_rounds: Rounds from one steering to the next.

    Source:
        Bengio et al., Curriculum Learning (2009); the pacings and windows are ours.
    """

    def __init__(
        self,
        *,
        pacing: Pacing = "steps",
        window: Window = "up_to",
        first_levels: int = 1,
        start_step: int = 0,
        end_step: int | None = None,
        threshold: float = 0.7,
        min_attempts: int = 64,
        width: float = 1.0,
        floor: float = 0.0,
        success: str = CORRECT,
        smoothing: float = 0.3,
        every_n_rounds: int = 1,
    ) -> None:
        super().__init__("difficulty", success=success, smoothing=smoothing, every_n_rounds=every_n_rounds)
        for name, given, choices in (("pacing", pacing, Pacing), ("window", window, Window)):
            if given not in get_args(choices):
                raise UserError(
                    f"DifficultyCurriculum.{name} is {given!r}; it must be one of {', '.join(get_args(choices))}"
                )
        if first_levels < 1 or min_attempts < 1:
            raise UserError(
                f"DifficultyCurriculum has first_levels {first_levels} and min_attempts {min_attempts}; give at least 1"
            )
        if start_step < 0 or (end_step is not None and end_step <= start_step):
            raise UserError(
                f"DifficultyCurriculum goes from start_step {start_step} to end_step {end_step}; the first must be at "
                "least 0, the second above it"
            )
        if not 0 < threshold <= 1 or not 0 <= floor <= 1:
            raise UserError(
                f"DifficultyCurriculum has threshold {threshold} and floor {floor}; the first must lie in (0, 1], the "
                "second in [0, 1]"
            )
        if not 0 < width < math.inf:
            raise UserError(f"DifficultyCurriculum.width is {width}; give a positive number of levels")
        self.pacing = pacing
        self.window = window
        self.first_levels = first_levels
        self.start_step = start_step
        self.end_step = end_step
        self.threshold = threshold
        self.min_attempts = min_attempts
        self.width = width
        self.floor = floor
        self.newest = first_levels - 1
        """Place of the newest level, of ``success``."""
        self._last_step = end_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Asks the DataModule for its levels.

        Raises:
            UserError: There are too few, or the end of the schedule is not known or before its start.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if self.first_levels > len(self.arms):
            raise UserError(
                f"DifficultyCurriculum.first_levels is {self.first_levels}, but the data have {len(self.arms)} levels: "
                f"{', '.join(self.arms)}"
            )
        if self.pacing == "steps" and self.end_step is None:
            self._last_step = self.steps_of_run(trainer, "end_step")
            if self._last_step <= self.start_step:
                raise UserError(
                    f"DifficultyCurriculum.start_step is {self.start_step}, but training ends at {self._last_step}; "
                    "lower it"
                )

    def level(self, step: int) -> float:
        """Computes the place of the newest level, from 0; between two levels with ``pacing: steps``."""
        if self.pacing == "success":
            return float(self.newest)
        if self._last_step is None:
            raise RuntimeError("the schedule's end is not known before setup")
        share = min(max((step - self.start_step) / (self._last_step - self.start_step), 0.0), 1.0)
        first, last = self.first_levels - 1, len(self.arms) - 1
        return float(last) if share == 1 else first + (last - first) * share

    def probabilities(self, step: int) -> Mapping[str, float]:
        """Computes the share of each level; they add up to 1."""
        levels = torch.arange(len(self.arms), dtype=torch.float64)
        newest = self.level(step)
        if self.window == "up_to":
            weights = (levels <= newest).double()
        else:
            weights = torch.softmax(-((levels - newest) ** 2) / (2 * self.width**2), dim=0)
        shares = (1 - self.floor) * weights / weights.sum() + self.floor / len(self.arms)
        return self.by_arm(shares)

    def learn(self) -> None:
        """Opens the next level where the newest is mastered."""
        if self.pacing != "success" or self.newest == len(self.arms) - 1:
            return
        tried_enough = float(self.attempts[self.newest]) >= self.min_attempts
        if tried_enough and float(self.success_rates()[self.newest]) >= self.threshold:
            self.newest += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns the statistics and the newest level."""
        return {**super().state_dict(), "newest": self.newest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues an earlier run."""
        self.newest = state_dict["newest"]
        super().load_state_dict(state_dict)
