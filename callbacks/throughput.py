"""Tokens and samples a second."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import PromptBatch


class Throughput(Callback):
    """Logs ``train/tokens_per_second`` and ``train/samples_per_second`` over the latest steps.

    Tokens are those that the model reads, image tokens included and padding left out. Ranks are taken to be alike: this
    rank's rate is multiplied by their number. Time spent in validation does not count.

    Args:
        window: Batches that the rate is a mean of, at least 1.
    """

    def __init__(self, window: int = 20) -> None:
        if window < 1:
            raise UserError(f"Throughput.window is {window}; give at least 1")
        self.window = window
        self.total_tokens = 0
        self.training_seconds = 0.0
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=window)
        self._since = 0.0
        self._validation_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the clock go on."""
        self._since += time.perf_counter() - self._validation_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a batch."""
        if not isinstance(batch, PromptBatch):
            return
        now = time.perf_counter()
        tokens = int(batch.attention_mask.sum())
        self._recent.append((now - self._since, tokens * trainer.world_size, len(batch) * trainer.world_size))
        self.training_seconds += now - self._since
        self.total_tokens += tokens * trainer.world_size
        self._since = now
        seconds, token_count, samples = (sum(column) for column in zip(*self._recent, strict=True))
        pl_module.log("train/tokens_per_second", token_count / seconds, prog_bar=True)
        pl_module.log("train/samples_per_second", samples / seconds)

    def state_dict(self) -> dict[str, float]:
        """Keeps the totals of the run."""
        return {"total_tokens": self.total_tokens, "training_seconds": self.training_seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from the totals of the run."""
        self.total_tokens = int(state["total_tokens"])
        self.training_seconds = state["training_seconds"]
