"""Turns one coefficient of a paradigm along a schedule."""

from __future__ import annotations

import math
from typing import Any, get_args

from lightning import LightningModule, Trainer

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.functional.schedules import ScheduleKind, scheduled_value
from lit_vlm.interfaces.capabilities import HasCoefficients, SamplesRollouts
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Iteration

RAISED_BY = {
    "kl": "highest_kl of the objective, or of KLInReward",
    "entropy_bonus": "objective.highest_entropy_bonus",
}
"""The option that allows a coefficient higher values, where there is one."""


class CoefficientSchedule(RolloutCallback):
    """Sets a coefficient before each round to ``start + (end - start) * course(min(1, step / steps))``.

    ``step`` counts the optimizer steps before the round, so a round of several steps has one value, and a resumed run
    goes on where it stopped. Modules that sample nothing, such as ``DPOModule``, have a round at each optimizer step.
    The value is logged as ``train/coefficient/NAME`` where the module does not log it.

    Args:
        coefficient: Name of the coefficient, such as ``reward/format`` or ``clip_high``.
        kind: ``constant`` (``start`` throughout), ``linear`` or ``cosine`` (half a wave, flat at both ends).
        start: Value at the first step.
        end: Value from ``steps`` on.
        steps: Optimizer steps from ``start`` to ``end``; None: ``trainer.max_steps``.
    """

    def __init__(
        self,
        coefficient: str,
        kind: ScheduleKind = "linear",
        *,
        start: float,
        end: float | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if kind not in get_args(ScheduleKind):
            raise UserError(f"{name}.kind is {kind!r}; it must be one of {', '.join(get_args(ScheduleKind))}")
        if kind != "constant" and end is None:
            raise UserError(f"{name}.end is not given; a {kind} schedule needs it")
        if not all(math.isfinite(value) for value in (start, start if end is None else end)):
            raise UserError(f"{name} goes from start {start} to end {end}; give finite numbers")
        if steps is not None and steps < 1:
            raise UserError(f"{name}.steps is {steps}; give at least 1 optimizer step")
        self.coefficient = coefficient
        self.kind: ScheduleKind = kind
        self.start = start
        self.end = start if end is None else end
        self.steps = steps
        self.value = start
        self.step = 0
        self._course_steps = steps
        self._has_rollouts = True

    @property
    def state_key(self) -> str:
        """Tells schedules of different coefficients apart in a checkpoint."""
        return self._generate_state_key(coefficient=self.coefficient)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the coefficient exists and may take every value of the schedule.

        Raises:
            UserError: It does not, or the length of the schedule is not known.
        """
        self._has_rollouts = isinstance(pl_module, SamplesRollouts)
        if self._has_rollouts or not isinstance(pl_module, HasCoefficients):
            super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if self.kind != "constant":
            self._course_steps = self.steps or self.steps_of_run(trainer, "steps")
        coefficients = self.coefficients_of(pl_module)
        if self.coefficient in coefficients:
            self.prepare(coefficients)
        check_reach(coefficients, self.coefficient, *self.reach(), type(self).__name__)

    def prepare(self, coefficients: Coefficients) -> None:
        """Takes from the module's coefficients what the options leave open: nothing here."""

    def reach(self) -> tuple[float, float]:
        """Returns the lowest and the highest value of the schedule."""
        return min(self.start, self.end), max(self.start, self.end)

    def value_at(self, step: int) -> float:
        """Computes the value of a round that begins after ``step`` optimizer steps."""
        return scheduled_value(self.kind, self.start, self.end, step, self._course_steps or 1)

    def on_before_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Sets the coefficient for this round."""
        self._turn(pl_module, iteration.step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the coefficient for this optimizer step, where there are no rollouts."""
        if not self._has_rollouts:
            self._turn(pl_module, trainer.global_step)

    def on_after_update(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Logs the value of this round, unless the module does."""
        figure = f"coefficient/{self.coefficient}"
        if figure not in iteration.figures:
            self.log_figure(pl_module, f"train/{figure}", self.value)

    def _turn(self, pl_module: LightningModule, step: int) -> None:
        self.step = step
        self.value = self.coefficients_of(pl_module).set(self.coefficient, self.value_at(step))

    def state_dict(self) -> dict[str, Any]:
        """Returns the present value and the step that it was set at."""
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over where an earlier run stopped."""
        self.value = state_dict["value"]
        self.step = state_dict["step"]


def check_reach(coefficients: Coefficients, name: str, lowest: float, highest: float, asker: str) -> None:
    """Checks that a coefficient exists and may take all values between two.

    Args:
        coefficients: Those of the module.
        name: The coefficient.
        lowest: Lowest value that is wanted.
        highest: Highest value that is wanted.
        asker: Who wants them, for the message.

    Raises:
        UserError: It does not; the message names the option to mend.
    """
    option = RAISED_BY.get(name)
    if name not in coefficients and option is not None:
        known = ", ".join(coefficients) or "none"
        raise UserError(
            f"{asker} turns the coefficient {name!r}, which this module lacks; it has {known}; to have it, set "
            f"{option} to at least {highest:g}"
        )
    coefficients.require(name, asker)
    low, high = coefficients.bounds(name)
    if lowest < low or highest > high:
        mend = f"raise {option}, or " if option is not None and highest > high else ""
        raise UserError(
            f"{asker} takes the coefficient {name!r} from {lowest:g} to {highest:g}, but the module allows [{low:g}, "
            f"{high:g}]; {mend}stay within"
        )
