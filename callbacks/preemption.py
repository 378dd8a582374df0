"""Saves and leaves when a scheduler wants the machine back."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lit_vlm.callbacks.checkpointing import Checkpointing, checkpoint_folder, is_at_end, save_whole
from lit_vlm.callbacks.run_folder import is_trial_run
from lit_vlm.functional.checkpoint_search import SUFFIX

REQUEUE = 75
"""Exit status of a run that has saved and wants to be started again: ``EX_TEMPFAIL`` of ``sysexits.h``."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LONGEST_WAIT = 30.0  # seconds


class Preemption(Checkpoint):
    """Saves a checkpoint after the present optimizer step at SIGTERM or SIGUSR1, and ends with exit status 75.

    It is enough that one rank gets the signal; all ranks save after the same step and end with this status. Where the
    step is the last before a validation or of an epoch, what is saved first is overwritten when that is over, and the
    run ends then. A second signal ends the process at once, and those that it has launched.

    Where Lightning requeues SLURM jobs itself (``SLURMEnvironment`` with ``auto_requeue``, its default), the signals
    are left to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received = 0
        self._is_asked = False  # by any rank
        self._step = 0
        self._handlers: dict[int, Any] = {}
        self._trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over from Lightning, which would end in the middle of a step."""
        self._step = trainer.global_step
        environment = trainer._accelerator_connector.cluster_environment
        is_requeued = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        if is_requeued or is_trial_run(trainer) or threading.current_thread() is not threading.main_thread():
            return
        self._trainer = trainer
        self._handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and ends after an optimizer step, where any rank was asked to."""
        is_boundary, self._step = trainer.global_step > self._step, trainer.global_step
        if self._trainer is None or not is_boundary or not self._ask_ranks(trainer):
            return
        self._save(trainer)
        if not is_at_end(trainer):
            self._leave(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves and ends in the middle of an epoch, where a validation came between."""
        if self._trainer is not None and not trainer.sanity_checking and not trainer.is_last_batch:
            self._leave_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves and ends after an epoch."""
        if self._trainer is not None and trainer.is_last_batch:
            self._leave_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back: what is left of the run is short."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back, unless the run ends because of one."""
        if not isinstance(exception, SystemExit):
            self._give_back()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if self._received == 1:
            _tell(f"signal {number}: the run saves after this step and ends with status {REQUEUE}")
            return
        launcher = self._trainer.strategy.launcher if self._trainer is not None else None
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _ask_ranks(self, trainer: Trainer) -> bool:
        asked: bool = trainer.strategy.reduce_boolean_decision(self._received > 0, all=False)
        self._is_asked = self._is_asked or asked
        return asked

    def _leave_if_asked(self, trainer: Trainer) -> None:
        if self._is_asked or self._ask_ranks(trainer):
            self._save(trainer)
            self._leave(trainer)

    @staticmethod
    def _save(trainer: Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpointing):
                callback.save(trainer)
                return
        save_whole(trainer, checkpoint_folder(trainer) / f"step={trainer.global_step:08d}{SUFFIX}")

    def _leave(self, trainer: Trainer) -> None:
        """Ends this rank.

        Raises:
            SystemExit: Always, with status 75.
        """
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and not launcher.procs and trainer.local_rank > 0:
            environment = launcher.cluster_environment
            if isinstance(environment, LightningEnvironment):
                atexit.register(outlast_launcher, os.getppid())
        if trainer.is_global_zero:
            _tell(f"saved after step {trainer.global_step}; go on with --ckpt_path last")
        raise SystemExit(REQUEUE)

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers, self._trainer = {}, None


def outlast_launcher(launcher: int) -> None:
    """Waits, in a process that Lightning has launched, until the one that launched it has ended.

    Lightning kills the launching process where another ends before it with a status that is not 0.

    Args:
        launcher: Process number of the one that launched this.
    """
    end = time.monotonic() + LONGEST_WAIT
    while os.getppid() == launcher and time.monotonic() < end:
        time.sleep(0.05)


def _tell(line: str) -> None:
    print(f"lit-vlm: {line}", file=sys.stderr, flush=True)
