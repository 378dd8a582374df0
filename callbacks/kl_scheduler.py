"""Schedules the weight of the divergence from the reference."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from lightning import LightningModule, Trainer

from lit_vlm.callbacks.coefficient_schedule import CoefficientSchedule
from lit_vlm.functional.schedules import adapted_weight
from lit_vlm.interfaces.capabilities import SamplesRollouts
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Iteration

KLScheduleKind = Literal["constant", "linear", "cosine", "adaptive"]

FIGURES = ("kl", "reward_kl")
"""Where the module reports the divergence: in the loss, or in the reward."""


class KLScheduler(CoefficientSchedule):
    """Sets the coefficient ``kl`` before each round: by a course over steps, or so that the divergence meets a target.

    ``linear`` and ``cosine`` are GRPO-D: a weak reference at first (explore), a stronger one later (exploit).
    ``adaptive`` multiplies the weight after each update by ``1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon``,
    where ``n`` counts the round's completions over all ranks. All ranks read the same figure, so they agree.

    Args:
        kind: ``constant``, ``linear``, ``cosine`` or ``adaptive``.
        coefficient: Name of the coefficient.
        start: Value at the first step; None: 0 for ``linear`` and ``cosine``, else what the module declares.
        end: Value from ``steps`` on, of ``linear`` and ``cosine``.
        steps: Optimizer steps from ``start`` to ``end``; None: ``trainer.max_steps``.
        allow_decay: Lets ``start`` be above ``end``.
        target: Divergence to meet, in nats a token; of ``adaptive``, as all that follow.
        horizon: Completions over which the weight would change by about a fifth.
        metric: Figure of the module to read; None: ``kl``, or ``reward_kl`` where there is no ``kl``.
        lowest: Lowest weight, above 0: from there no factor leads back.
        highest: Highest weight; None: what the module allows.

    Source:
        OThink-MR1 (GRPO-D), reconstructed: the direction is documented, the courses and the defaults are ours, with
        0.04 as the constant of the R1-V family. Adaptive: Ziegler et al. (2019), section 2.2, and verl's
        ``AdaptiveKLController`` (confirmed-in-code), whose ``n`` is the number of sequences of the whole batch. We
        differ: verl reads the mean over sequences of the sampling policy's divergence; here it is the figure of the
        update, a mean over tokens; and there are bounds.
    """

    def __init__(
        self,
        kind: KLScheduleKind = "linear",
        *,
        coefficient: str = "kl",
        start: float | None = None,
        end: float = 0.04,
        steps: int | None = None,
        allow_decay: bool = False,
        target: float = 0.1,
        horizon: float = 10_000,
        metric: str | None = None,
        lowest: float = 1e-6,
        highest: float | None = None,
    ) -> None:
        if kind not in get_args(KLScheduleKind):
            raise UserError(f"KLScheduler.kind is {kind!r}; it must be one of {', '.join(get_args(KLScheduleKind))}")
        is_course = kind in ("linear", "cosine")
        first = 0.0 if start is None else start
        if is_course and first > end and not allow_decay:
            raise UserError(
                f"KLScheduler goes down from start {first:g} to end {end:g}; set allow_decay to true if that is meant"
            )
        super().__init__(
            coefficient,
            "constant" if kind == "adaptive" else kind,
            start=first,
            end=end if is_course else None,
            steps=steps,
        )
        self.is_adaptive = kind == "adaptive"
        if self.is_adaptive:
            if not (0 < target < math.inf and 0 < horizon < math.inf):
                raise UserError(f"KLScheduler has target {target} and horizon {horizon}; give positive numbers")
            if lowest <= 0 or (highest is not None and not lowest <= highest < math.inf):
                raise UserError(
                    f"KLScheduler has lowest {lowest} and highest {highest}; they must be finite, with "
                    "0 < lowest <= highest"
                )
        self.takes_declared_start = start is None and not is_course
        self.target = target
        self.horizon = horizon
        self.metric = metric
        self.lowest = lowest
        self.highest = highest
        self._ceiling = math.inf if highest is None else highest

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the coefficient exists and may take every value of the schedule.

        Raises:
            UserError: It does not, the length of the schedule is not known, or the module samples nothing by whose
                divergence the weight could adapt.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.is_adaptive and not isinstance(pl_module, SamplesRollouts):
            raise UserError(
                f"KLScheduler.kind is adaptive, which goes by completions that a module samples, but "
                f"{type(pl_module).__name__} samples none; choose linear or cosine"
            )

    def prepare(self, coefficients: Coefficients) -> None:
        """Takes the start and the highest weight from the module where they are not given.

        Raises:
            UserError: The start lies outside the bounds.
        """
        if self.takes_declared_start:
            self.start = self.end = self.value = coefficients[self.coefficient]
        if self.is_adaptive:
            if self.highest is None:
                self._ceiling = coefficients.bounds(self.coefficient)[1]
            if not self.lowest <= self.start <= self._ceiling:
                raise UserError(
                    f"KLScheduler begins to adapt at {self.start:g}, outside its bounds [{self.lowest:g}, "
                    f"{self._ceiling:g}]; set start, or the coefficient itself, to a number within"
                )

    def reach(self) -> tuple[float, float]:
        """Returns the lowest and the highest value that the options name."""
        if self.is_adaptive:
            return self.lowest, self.lowest if self.highest is None else self.highest
        return super().reach()

    def value_at(self, step: int) -> float:
        """Computes the value of a round that begins after ``step`` optimizer steps; adaptive: the present one."""
        return self.value if self.is_adaptive else super().value_at(step)

    def on_after_update(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Logs the value of this round, and adapts that of the next."""
        super().on_after_update(trainer, pl_module, iteration)
        if self.is_adaptive:
            local = 0 if iteration.rollouts is None else len(iteration.rollouts)
            completions = int(self.sum_over_ranks(trainer, torch.tensor(local)))
            if completions and iteration.figures.get("updates") != 0:
                self._adapt(self._divergence(iteration.figures), completions)
                self.coefficients_of(pl_module).set(self.coefficient, self.value)

    def _adapt(self, divergence: float, completions: int) -> None:
        value = adapted_weight(self.value, divergence, self.target, completions, self.horizon)
        self.value = min(max(value, self.lowest), self._ceiling)

    def _divergence(self, figures: dict[str, float]) -> float:
        names = FIGURES if self.metric is None else (self.metric,)
        found = [figures[name] for name in names if name in figures]
        if not found:
            raise UserError(
                f"KLScheduler reads the figure {' or '.join(names)}, which the module does not report; it has "
                f"{', '.join(figures) or 'none'}; set metric to one of them"
            )
        if math.isnan(found[0]):
            raise UserError(f"KLScheduler adapts to {names[0]}, which is NaN: the run has diverged")
        return found[0]
