"""Biases the gradients of any module before each optimizer step."""

from __future__ import annotations

import math
from typing import get_args

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lit_vlm.functional.gradient_directions import ALPHA_SHARE
from lit_vlm.functional.schedules import ScheduleKind, scheduled_value
from lit_vlm.interfaces.capabilities import HasCoefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import AttachedTransform, GradientTransform
from lit_vlm.interfaces.weights import OffersWeights


class GradientBias(Callback):
    """Hands the gradients of each optimizer step to a transform, accumulated and unscaled, before they are clipped.

    Works under any module of this package, also those that take their steps by hand, such as ``GRPOModule``. What the
    transform does can grow and fade: its strength is multiplied by ``start + (end - start) * course(min(1, step /
    steps))``, and in the first ``warmup`` steps by ``step / warmup`` too. All of it follows from the checkpoint on disk
    and the number of steps, so that a resumed run needs no state.

    Figures are logged as ``train/drift/NAME``; ``train/drift/alpha_share`` is the multiple.

    Args:
        transform: What is done to the gradients, such as ``DirectionalBias``.
        kind: Course of the multiple: ``constant`` (``start`` throughout), ``linear`` or ``cosine``.
        start: Multiple at the first step.
        end: Multiple from ``steps`` on.
        steps: Optimizer steps from ``start`` to ``end``; None: ``trainer.max_steps``.
        warmup: Steps in which the multiple grows from 0; the first step of a run has 0 where it is above 0.
    """

    def __init__(
        self,
        transform: GradientTransform,
        *,
        kind: ScheduleKind = "constant",
        start: float = 1.0,
        end: float | None = None,
        steps: int | None = None,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        if kind not in get_args(ScheduleKind):
            raise UserError(f"GradientBias.kind is {kind!r}; it must be one of {', '.join(get_args(ScheduleKind))}")
        if kind != "constant" and end is None:
            raise UserError(f"GradientBias.end is not given; a {kind} schedule needs it")
        if not all(map(math.isfinite, (start, start if end is None else end))):
            raise UserError(f"GradientBias has start {start} and end {end}; give finite numbers")
        if warmup < 0 or (steps is not None and steps < 1):
            raise UserError(f"GradientBias has steps {steps} and warmup {warmup}; give steps >= 1 and warmup >= 0")
        if kind == "constant" and (end is not None or steps is not None):
            raise UserError(
                f"GradientBias.kind is constant, which has no end and no steps, but end is {end} and steps are {steps}"
                "; give kind linear or cosine, or leave them out"
            )
        self.transform = transform
        self.kind: ScheduleKind = kind
        self.start = start
        self.end = start if end is None else end
        self.steps = steps
        self.warmup = warmup
        self._course_steps = steps or 1
        self._attached: AttachedTransform | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the module tells what it trains and has no bias of its own, and how long the schedule is.

        Raises:
            UserError: It does not, it biases gradients itself, the length is not known, or what the transform reads
                does not fit.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, OffersWeights):
            raise UserError(
                f"trainer.callbacks has GradientBias, but {type(pl_module).__name__} does not tell what it trains; "
                "leave it out, or train with a module of this package"
            )
        if isinstance(pl_module, HasCoefficients) and ALPHA_SHARE in pl_module.coefficients:
            raise UserError(
                f"trainer.callbacks has GradientBias, but {type(pl_module).__name__} biases its gradients itself; "
                "leave the callback out, or train with SFTModule"
            )
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, GradientBias) for callback in callbacks) > 1:
            raise UserError("trainer.callbacks has GradientBias twice; give one, with a prior and a base of its own")
        if self.kind != "constant" and self.steps is None:
            if trainer.max_steps < 1:
                raise UserError(
                    f"GradientBias has no steps, and trainer.max_steps is {trainer.max_steps}; give one of the two"
                )
            self._course_steps = trainer.max_steps
        self.transform.check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has the transform choose its weights, and read what it needs for them.

        Raises:
            UserError: There is nothing for it to act on, or what it reads does not fit.
        """
        if not isinstance(pl_module, OffersWeights):
            raise RuntimeError("setup has not run")
        self._attached = self.transform.attach(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Transforms the gradients; Lightning calls this before the module's own hook, and before clipping."""
        if self._attached is None:
            raise RuntimeError("on_train_start has not run")
        share = self.share_at(trainer.global_step)
        for name, value in self._attached({ALPHA_SHARE: share}).items():
            pl_module.log(f"train/drift/{name}", value, batch_size=1)
        pl_module.log(f"train/drift/{ALPHA_SHARE}", share, batch_size=1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets go of what the transform read."""
        self._attached = None

    def share_at(self, step: int) -> float:
        """Computes the multiple after ``step`` optimizer steps."""
        share = scheduled_value(self.kind, self.start, self.end, step, self._course_steps)
        return share * min(1.0, step / self.warmup) if self.warmup else share
