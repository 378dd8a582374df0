"""Ends a run on several ranks with one clear error where one of them is gone, in place of waiting for ever."""

from __future__ import annotations

import os
import threading
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lit_vlm.functional.dead_workers import dead_worker_error
from lit_vlm.functional.rank_heartbeat import HeartbeatTimes, RankHeartbeat, is_broken_collective, shared_store
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Iteration

OBSERVER = "child-process-observer"
"""Lightning's thread that kills all ranks without a word where one ends."""


class RankWatchdog(Callback):
    """Notices within a minute that a rank has died, hangs as a process, or stopped by an error, on all others.

    Each then names the rank and what it was doing, and ends. Ranks give signs of life beside their work, so that one
    which works for long while others wait (decoding, evaluation, saving) is left alone. On one rank it does nothing.

    Args:
        silence: Seconds without a sign of life until a rank is given up.
    """

    def __init__(self, *, silence: float = 30.0) -> None:
        super().__init__()
        if not silence >= 5:
            raise UserError(f"RankWatchdog.silence is {silence}; give at least 5 seconds")
        self.times = HeartbeatTimes(silence=silence)
        self._heartbeat: RankHeartbeat | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins to watch; every rank must take part."""
        if trainer.world_size == 1 or self._heartbeat is not None:
            return
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        store = shared_store(trainer.global_rank, host, trainer.strategy.broadcast, self.times.silence)
        launcher = trainer.strategy.launcher
        children = launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []
        if children:
            _dismiss_observer()
        self._heartbeat = RankHeartbeat(
            store,
            trainer.global_rank,
            trainer.world_size,
            children=children,
            first_child=trainer.global_rank + 1,
            times=self.times,
        )
        self._heartbeat.start()
        self._enter("the loading of the model")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stops watching, when all ranks are done."""
        if self._heartbeat is not None:
            self._heartbeat.finish()
            self._heartbeat = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tells the other ranks why this one stops; or finds out which rank is gone, where a collective has failed.

        Raises:
            UserError: Another rank is gone, and which; or a process that reads data has died.
        """
        heartbeat, self._heartbeat = self._heartbeat, None
        mistake = dead_worker_error(exception)
        if heartbeat is not None:
            self._tell(heartbeat, mistake or exception)
        if mistake is not None:
            # Torch raises it wherever the main thread happens to be.
            raise mistake from exception

    def _tell(self, heartbeat: RankHeartbeat, exception: BaseException) -> None:
        if not isinstance(exception, Exception):
            # Asked to end, as all ranks are.
            heartbeat.finish(self.times.grace)
            return
        if is_broken_collective(exception):
            verdict = heartbeat.ask()
            if verdict is not None:
                raise UserError(f"{verdict}; --ckpt_path last resumes from the last checkpoint") from exception
        heartbeat.fail(
            str(exception) if isinstance(exception, UserError) else f"{type(exception).__name__}: {exception}"
        )

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what this rank does."""
        self._enter("validation")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what this rank does."""
        self._enter(f"validation after step {trainer.global_step}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what this rank does."""
        self._enter("test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what this rank does."""
        self._enter("predict")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what this rank does."""
        self._enter(f"reading data for step {trainer.global_step}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what this rank does."""
        self._enter(f"reading data for step {trainer.global_step}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes what this rank does."""
        self._enter(f"training step {trainer.global_step}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes what this rank does."""
        self._enter(f"reading data for step {trainer.global_step}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what this rank does."""
        self._enter("the end of training")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes what this rank does."""
        self._enter(f"saving after step {trainer.global_step}")

    def on_before_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Notes what this rank does."""
        self._enter(f"the rollout of step {iteration.step}")

    def on_after_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Notes what this rank does."""
        self._enter(f"the rewards of step {iteration.step}")

    def on_after_rewards(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Notes what this rank does."""
        self._enter(f"training step {iteration.step}")

    on_after_advantages = on_after_update = on_after_rewards

    def _enter(self, phase: str) -> None:
        if self._heartbeat is not None:
            self._heartbeat.enter(phase)


def _dismiss_observer() -> None:
    """Lets Lightning's observer of processes end; what it looks after is looked after here."""
    for thread in threading.enumerate():
        if thread.name == OBSERVER:
            thread._child_processes = []  # type: ignore[attr-defined]
