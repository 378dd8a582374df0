"""Stops at a loss or gradient that is infinite or NaN, or skips the step; either way what caused it is kept."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_vlm import __version__
from lit_vlm.callbacks.run_folder import is_trial_run, run_folder
from lit_vlm.functional.fault_folder import KINDS, Fault, MicroBatch, bytes_of, write_fault
from lit_vlm.functional.gradient_peaks import gradient_peaks, spoilt_weights
from lit_vlm.interfaces.batches import TrainingBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Iteration

logger = logging.getLogger(__name__)

NonFiniteAction = Literal["stop", "skip"]
FOLDER = "faults"
MOST_FOLDERS = 5
"""Steps of a run that are written down."""
NAMED = 1000
"""Most parameters that a fault names."""


@dataclass
class _Held:
    """A micro-batch of the step that is under way."""

    batch: TrainingBatch
    index: int
    seed: int
    is_finite: Tensor | None = None
    """Whether all its losses so far were."""


class NonFiniteGuard(Callback):
    """Watches the loss and the gradients of every optimizer step, accumulated and unscaled, before they are clipped.

    Where one is infinite or NaN on any rank, all ranks stop, or leave the step out: weights and the optimizer's state
    stay as they were, while the learning rate's schedule goes on. Beforehand the step's batches are written to
    ``faults/step_N_rank_R`` in the run's folder, with all that it takes to repeat the step: by the ranks whose own loss
    was at fault, or by all where none was. ``lit-vlm repeat FOLDER`` runs it again.

    Under ``16-mixed`` infinite gradients are how the scale of the loss is found, and the step is left out by the
    scaler; they count as a fault only where the scale is 1 or less. Under DeepSpeed, which keeps gradients to itself,
    the loss alone is watched, and steps cannot be skipped.

    Args:
        action: ``stop`` ends the run; ``skip`` leaves the step out, and logs ``train/skipped_steps``.
        most_in_a_row: Steps that may be skipped one after the other.
        most: Steps that may be skipped in all.
        kept_bytes: Most bytes of a step's batches that are written as tensors; the first ones go first.
        weight_bytes: Most bytes of trained weights that are written along; larger ones are left to checkpoints.
    """

    def __init__(
        self,
        *,
        action: NonFiniteAction = "stop",
        most_in_a_row: int = 3,
        most: int = 20,
        kept_bytes: int = 2**28,
        weight_bytes: int = 2**30,
    ) -> None:
        super().__init__()
        if action not in get_args(NonFiniteAction):
            raise UserError(f"NonFiniteGuard.action is {action!r}; give one of {', '.join(get_args(NonFiniteAction))}")
        options = {"most_in_a_row": most_in_a_row, "most": most, "kept_bytes": kept_bytes, "weight_bytes": weight_bytes}
        for name, value in options.items():
            if value < 0:
                raise UserError(f"NonFiniteGuard.{name} is {value}; give 0 or more")
        self.action: NonFiniteAction = action
        self.most_in_a_row = most_in_a_row
        self.most = most
        self.kept_bytes = kept_bytes
        self.weight_bytes = weight_bytes
        self.skipped = 0
        """Steps skipped so far."""
        self._in_a_row = 0
        self._written = 0
        self._held: list[_Held] = []
        self._iteration: Iteration | None = None
        self._folder = Path()
        self._hides_gradients = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settles the folder; every rank must take part.

        Raises:
            UserError: Steps are to be skipped under DeepSpeed.
        """
        self._folder = run_folder(trainer)
        self._hides_gradients = isinstance(trainer.strategy, DeepSpeedStrategy)
        if self._hides_gradients and self.action == "skip":
            raise UserError(
                "NonFiniteGuard.action is skip, but DeepSpeed takes its steps itself; give action stop, or another "
                "trainer.strategy"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets batches of an earlier run of this callback."""
        self._held, self._iteration = [], None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Holds on to the batch until its step is taken."""
        if type(batch).__name__ in KINDS:
            self._held.append(_Held(batch, batch_idx, seed=0))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Notes whether the loss is finite, without waiting for the device."""
        if self._held:
            held, is_finite = self._held[-1], loss.detach().isfinite().all()
            held.is_finite = is_finite if held.is_finite is None else held.is_finite & is_finite
            held.seed = torch.initial_seed()

    def on_after_advantages(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Holds on to the completions that the round's steps learn from."""
        self._iteration = iteration

    def on_before_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Does nothing; an observer of rollouts must have it."""

    on_after_rollout = on_after_rewards = on_after_update = on_before_rollout

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Looks at the step; Lightning calls this before clipping.

        Raises:
            UserError: The loss or a gradient is infinite or NaN, and the run is to stop, or has skipped too much.
        """
        names, peaks = ([], torch.zeros(0)) if self._hides_gradients else gradient_peaks(pl_module)
        losses = [held.is_finite for held in self._held if held.is_finite is not None]
        own = torch.zeros(2, device=trainer.strategy.root_device)
        if losses:
            own[0] = ~torch.stack(losses).all()
        if len(peaks):
            own[1] = ~peaks.isfinite().all()
        bad_loss, bad_gradient = _highest(trainer, own).tolist()
        if not bad_loss and (not bad_gradient or _is_found_by_scaler(trainer)):
            self._in_a_row = 0
            self._log(trainer, pl_module)
            self._let_go(pl_module)
            return
        spoilt = tuple(name for name, peak in zip(names, peaks.tolist(), strict=True) if not abs(peak) < torch.inf)
        reason = _reason(bool(bad_loss), spoilt)
        written = self._write(trainer, pl_module, reason, spoilt, mine=bool(own[0]) or not bad_loss)
        self._let_go(pl_module)
        self._act(trainer, pl_module, optimizer, f"step {trainer.global_step}: {reason}{written}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lets go of a batch whose module takes its steps itself; they are taken by now."""
        if not pl_module.automatic_optimization:
            self._held, self._iteration = [], None

    def state_dict(self) -> dict[str, Any]:
        """Returns what was skipped so far."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "written": self._written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts on from an earlier run."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]
        self._written = state_dict["written"]

    def _let_go(self, pl_module: LightningModule) -> None:
        if pl_module.automatic_optimization:
            self._held = []
        else:
            for held in self._held:
                held.is_finite = None

    def _act(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, what: str) -> None:
        if self.action == "stop":
            raise UserError(
                f"{what}. Lower model.optimizer.learning_rate, mend the samples, or give another trainer.precision; "
                "NonFiniteGuard.action skip leaves such steps out"
            )
        self._in_a_row += 1
        self.skipped += 1
        if self._in_a_row > self.most_in_a_row or self.skipped > self.most:
            raise UserError(
                f"{what}. {self._in_a_row} steps in a row would be skipped now and {self.skipped} in all, where "
                f"NonFiniteGuard allows {self.most_in_a_row} and {self.most}; lower model.optimizer.learning_rate, or "
                "give another trainer.precision"
            )
        # Without gradients the step changes nothing, neither weights nor the optimizer's state.
        optimizer.zero_grad(set_to_none=True)
        if trainer.is_global_zero:
            logger.warning("%s; the step is skipped (%d in all)", what, self.skipped)
        self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.action == "skip":
            pl_module.log("train/skipped_steps", float(self.skipped), batch_size=1)

    def _write(
        self, trainer: Trainer, pl_module: LightningModule, reason: str, spoilt: tuple[str, ...], *, mine: bool
    ) -> str:
        """Writes what this rank has of the step, and says where."""
        if is_trial_run(trainer) or self._written >= MOST_FOLDERS:
            return ""
        self._written += 1
        first = trainer.world_size - int(
            _highest(trainer, torch.tensor(float(trainer.world_size - trainer.global_rank) if mine else 0.0)).item()
        )
        stem = f"step_{trainer.global_step}_rank_"
        folders = self._folder / FOLDER
        if mine:
            folder = folders / f"{stem}{trainer.global_rank}"
            weights = _trained_weights(trainer, pl_module, self.weight_bytes)
            fault = Fault(
                reason=reason,
                step=trainer.global_step,
                epoch=trainer.current_epoch,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                run_seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
                module=type(pl_module).__name__,
                precision=str(trainer.precision),
                micro_batches=self._micro_batches(),
                parameters=spoilt[:NAMED],
                spoilt_weights=spoilt_weights(pl_module)[:NAMED],
                weights_in=f"{stem}{first}" if weights else None,
                versions={"lit_vlm": __version__, "torch": torch.__version__},
            )
            rollouts = None if self._iteration is None else rollout_tensors(self._iteration)
            own = weights if trainer.global_rank == first else None
            write_fault(folder, fault, [held.batch for held in self._held], rollouts=rollouts, weights=own)
            if (config := self._folder / "config.yaml").is_file():
                shutil.copyfile(config, folder / "config.yaml")
        return f"; what led to it is in {folders / f'{stem}{first}'}, and 'lit-vlm repeat' runs that folder again"

    def _micro_batches(self) -> tuple[MicroBatch, ...]:
        if self._iteration is not None and self._iteration.rollouts is not None and self._held:
            # Groups that waited come from several batches.
            self._held[-1].batch = self._iteration.rollouts.prompts
            self._held = self._held[-1:]
        total, told = 0, []
        for held in self._held:
            total += bytes_of(held.batch)
            step_totals = held.batch.step_totals
            told.append(
                MicroBatch(
                    kind=type(held.batch).__name__,
                    index=held.index,
                    seed=held.seed,
                    is_finite=held.is_finite is None or bool(held.is_finite),
                    sample_ids=tuple(sample.id for sample in held.batch.samples),
                    has_tensors=total <= self.kept_bytes,
                    totals=None if step_totals is None else (step_totals.labels, step_totals.sequences),
                    digests=getattr(held.batch, "digests", ()),
                )
            )
        return tuple(told)


def rollout_tensors(iteration: Iteration) -> dict[str, Tensor]:
    """Returns the tensors of a round's completions, rewards and advantages, by name."""
    rollouts, rewards, advantages = iteration.rollouts, iteration.rewards, iteration.advantages
    if rollouts is None or rewards is None or advantages is None:
        raise ValueError("the round has no advantages yet")
    tensors = {name: value for name, value in vars(rollouts).items() if isinstance(value, Tensor)}
    return {**tensors, "rewards": rewards.total, "advantages": advantages.values}


def _highest(trainer: Trainer, value: Tensor) -> Tensor:
    """Returns the largest value over all ranks, which must all call this, element by element."""
    if trainer.world_size == 1:
        return value
    # A copy: strategies reduce in place.
    highest: Tensor = trainer.strategy.reduce(value.clone().to(trainer.strategy.root_device), reduce_op="max")
    return highest


def _is_found_by_scaler(trainer: Trainer) -> bool:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.is_enabled() and scaler.get_scale() > 1.0


def _reason(bad_loss: bool, spoilt: tuple[str, ...]) -> str:
    parts = ["the loss is infinite or NaN"] if bad_loss else []
    if spoilt:
        number = "1 parameter" if len(spoilt) == 1 else f"{len(spoilt)} parameters"
        parts.append(f"the gradients of {number} are infinite or NaN ({', '.join(spoilt[:3])})")
    return " and ".join(parts) or "gradients of another rank are infinite or NaN"


def _trained_weights(trainer: Trainer, pl_module: LightningModule, most: int) -> dict[str, Tensor]:
    """Returns the trained weights where this rank has them whole and they are not too large."""
    weights: dict[str, Tensor] = {name: value for name, value in pl_module.named_parameters() if value.requires_grad}
    small = sum(value.nbytes for value in weights.values()) <= most
    # FSDP and its kin cut weights up.
    whole = all(not isinstance(value.data, DTensor) and value.ndim > 0 for value in weights.values())
    return weights if small and whole and not _cuts_weights(trainer) else {}


def _cuts_weights(trainer: Trainer) -> bool:
    return any(word in type(trainer.strategy).__name__ for word in ("FSDP", "ModelParallel", "DeepSpeed"))
