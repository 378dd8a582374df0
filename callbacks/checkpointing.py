"""Saves checkpoints while a model trains, and keeps those that a policy wants."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lit_vlm.callbacks.atomic_checkpoint_io import AtomicCheckpointIO, remove
from lit_vlm.callbacks.run_folder import is_trial_run
from lit_vlm.functional.checkpoint_files import is_checkpoint_folder, mark_whole, unmark_whole
from lit_vlm.functional.checkpoint_search import CHECKPOINTS, SUFFIX
from lit_vlm.interfaces.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class Kept:
    """A checkpoint that is on disk."""

    path: str
    step: int
    """Optimizer steps that it was saved after."""
    value: float | None = None
    """The watched metric, where it was measured by then."""


class Checkpointing(Checkpoint):
    """Saves after optimizer steps, at the end of epochs and of training, and prunes by age and by a metric.

    A checkpoint is called ``step=NUMBER.ckpt``; the newest is what ``--ckpt_path last`` finds. It is saved between two
    steps only, so that a resumed run goes through the same steps as one that never stopped; where a validation follows
    the step it is saved after that. What is too many is removed when the new one is whole.

    Args:
        every_n_steps: Optimizer steps from one checkpoint to the next; None for none.
        every_minutes: Minutes from one to the next; None for none.
        every_n_epochs: Epochs from one to the next; None for none.
        keep_last: How many of the newest stay; null for all.
        monitor: A metric that validation logs, such as ``validation/exact_match``; one more checkpoint is saved after
            each validation then, and the best stays.
        mode: Whether ``max`` or ``min`` of the metric is best.
        keep_best: How many of the best stay.
        folder: Where to save; by default ``checkpoints`` in the run's folder.
    """

    def __init__(
        self,
        *,
        every_n_steps: int | None = None,
        every_minutes: float | None = 30,
        every_n_epochs: int | None = 1,
        keep_last: int | None = 1,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        keep_best: int = 1,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        for name, number in (
            ("every_n_steps", every_n_steps),
            ("every_n_epochs", every_n_epochs),
            ("keep_last", keep_last),
            ("keep_best", keep_best),
        ):
            if number is not None and number < 1:
                raise UserError(f"Checkpointing.{name} is {number}; give at least 1, or null")
        if every_minutes is not None and not 0 < every_minutes < math.inf:
            raise UserError(f"Checkpointing.every_minutes is {every_minutes}; give a positive number, or null")
        if mode not in ("max", "min"):
            raise UserError(f"Checkpointing.mode is {mode!r}; give max or min")
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.every_n_epochs = every_n_epochs
        self.keep_last = keep_last
        self.monitor = monitor
        self.mode = mode
        self.keep_best = keep_best
        self.folder = folder
        self.continues = False
        """Whether this run goes on with another's work, so that the policy holds for the other's checkpoints too."""
        self.kept: list[Kept] = []
        self._folder = Path()
        self._saved_step = 0
        self._last_step = 0
        self._is_due = False
        self._measures = False
        self._last_time = 0.0

    @property
    def best_model_path(self) -> str:
        """The best by the metric, or the newest without one; what ``ckpt_path: best`` means."""
        ranked = self._ranked()
        return ranked[0].path if ranked else self.last_model_path

    @property
    def last_model_path(self) -> str:
        """The newest."""
        return self.kept[-1].path if self.kept else ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the folder, the same on all ranks.

        Raises:
            UserError: A metric is watched, but no validation will run.
        """
        if stage != "fit":
            return
        folder = checkpoint_folder(trainer)
        self._folder = Path(self.folder) if self.folder is not None else folder
        if trainer.is_global_zero and trainer.ckpt_path is None and any(self._folder.glob(f"*{SUFFIX}")):
            logger.warning(
                "%s holds checkpoints of an earlier run, which --ckpt_path last may take for this one's; give another "
                "Checkpointing.folder, or leave trainer.logger on",
                self._folder,
            )
        if self.monitor is not None and trainer.limit_val_batches == 0:
            raise UserError(
                f"Checkpointing.monitor is {self.monitor}, but trainer.limit_val_batches is 0, so that nothing is "
                "measured; raise it, or leave monitor out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts steps and minutes from here."""
        self._saved_step = self._last_step = trainer.global_step
        self._last_time = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is time, unless a validation or the end of the epoch comes first."""
        is_boundary, self._last_step = trainer.global_step > self._last_step, trainer.global_step
        if not is_boundary or self._is_off(trainer):
            return
        self._is_due = self._is_due or self._is_time(trainer)
        if not is_at_end(trainer):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what was due, and what is to be ranked, in the middle of an epoch."""
        if self._is_off(trainer):
            return
        self._measures = True
        self._is_due = self._is_due or self.monitor is not None
        if not trainer.is_last_batch:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves at the end of an epoch where it is time."""
        if self._is_off(trainer) or not trainer.is_last_batch:
            return
        epochs = trainer.current_epoch + 1
        if self.every_n_epochs is not None and epochs % self.every_n_epochs == 0:
            self._is_due = True
        self._is_due = self._is_due or epochs == trainer.max_epochs
        self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end of training where nothing else has."""
        if not self._is_off(trainer) and trainer.global_step > self._saved_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Saves now, and prunes when the checkpoint is whole; all ranks must call this.

        Raises:
            UserError: It cannot be written, on all ranks alike.
        """
        path = self._folder / f"step={trainer.global_step:08d}{SUFFIX}"
        value = self._value(trainer)
        self.kept = [kept for kept in self.kept if kept.path != str(path)]
        before = list(self.kept)
        self.kept.append(Kept(str(path), trainer.global_step, value))
        surplus = self._surplus()
        self.kept = [kept for kept in self.kept if kept not in surplus]
        try:
            save_whole(trainer, path)
        except UserError:
            self.kept = before
            raise
        for kept in surplus:
            if trainer.is_global_zero:
                remove(Path(kept.path))
        self._saved_step = trainer.global_step
        self._last_time = time.monotonic()
        self._is_due = self._measures = False
        if trainer.is_global_zero:
            for board in trainer.loggers:
                board.after_save_checkpoint(self)  # type: ignore[arg-type]
        return path

    def state_dict(self) -> dict[str, Any]:
        """Returns what is kept, the checkpoint that this is written to included."""
        return {"kept": [asdict(kept) for kept in self.kept], "best": self.best_model_path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the policy where this run goes on with the other's work; otherwise nothing of it is touched."""
        if self.continues:
            self.kept = [kept for kept in (Kept(**fields) for fields in state_dict["kept"]) if Path(kept.path).exists()]

    def _is_time(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        every = self.every_n_steps
        if trainer.should_stop or (trainer.max_steps != -1 and step >= trainer.max_steps):
            return True
        if every is not None and step // every > self._saved_step // every:
            return True
        if self.every_minutes is None:
            return False
        # The clocks of ranks differ.
        return trainer.strategy.broadcast(time.monotonic() - self._last_time >= 60 * self.every_minutes)

    def _save_if_due(self, trainer: Trainer) -> None:
        if self._is_due:
            self.save(trainer)

    @staticmethod
    def _is_off(trainer: Trainer) -> bool:
        return is_trial_run(trainer) or trainer.sanity_checking or trainer.state.fn != "fit"

    def _value(self, trainer: Trainer) -> float | None:
        """Reads the metric, where a validation has measured it since the last checkpoint."""
        if self.monitor is None or not self._measures:
            return None
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise UserError(f"Checkpointing.monitor is {self.monitor!r}, which is not logged; there is {known}")
        return float(trainer.callback_metrics[self.monitor])

    def _ranked(self) -> list[Kept]:
        """Lists those with a metric, the best first, the newest of equals first."""
        sign = -1 if self.mode == "max" else 1
        measured = [kept for kept in self.kept if kept.value is not None and not math.isnan(kept.value)]
        return sorted(measured, key=lambda kept: (sign * (kept.value or 0.0), -kept.step))

    def _surplus(self) -> list[Kept]:
        if self.keep_last is None:
            return []
        wanted = {kept.path for kept in (*self.kept[-self.keep_last :], *self._ranked()[: self.keep_best])}
        return [kept for kept in self.kept if kept.path not in wanted]


def checkpoint_folder(trainer: Trainer) -> Path:
    """Tells where a run's checkpoints lie, the same on all ranks: beside what the first logger writes of this run."""
    if not trainer.loggers:
        return Path(trainer.default_root_dir) / CHECKPOINTS
    board = trainer.loggers[0]
    version = board.version if isinstance(board.version, str) else f"version_{board.version}"
    folder = Path(board.save_dir or trainer.default_root_dir) / str(board.name) / version / CHECKPOINTS
    return Path(trainer.strategy.broadcast(str(folder)))


def save_whole(trainer: Trainer, path: Path) -> None:
    """Saves a checkpoint that is whole or not there, and raises faults of writing on all ranks; all must call this.

    A strategy that has each rank write its share makes a folder, which the first rank marks as whole at the end.

    Raises:
        UserError: It cannot be written.
    """
    if trainer.is_global_zero and path.is_dir():
        unmark_whole(path)
    plugin = trainer.strategy.checkpoint_io
    if isinstance(plugin, AtomicCheckpointIO):
        with plugin.keeping_faults() as faults:
            trainer.save_checkpoint(path, weights_only=False)
        fault = trainer.strategy.broadcast(str(faults[0]) if faults else None)
        if fault is not None:
            raise UserError(fault)
    else:
        trainer.save_checkpoint(path, weights_only=False)
    if trainer.is_global_zero and is_checkpoint_folder(path):
        mark_whole(path)
    trainer.strategy.barrier("checkpoint_is_whole")


def is_at_end(trainer: Trainer) -> bool:
    """Tells, after a training batch, whether a validation or the end of the epoch follows it."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return bool(trainer.is_last_batch or (fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)))
