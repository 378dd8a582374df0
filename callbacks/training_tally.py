"""What training has consumed so far; shared by the callbacks that report speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lit_vlm.interfaces.batches import GroupBatch, PreferenceBatch, PromptBatch


class TrainingTotals(NamedTuple):
    """Running totals of one rank."""

    tokens: Tensor
    """Tokens that count, prompts included; int64 scalar on the batches' device."""
    samples: int
    """Rows."""
    seconds: float
    """Wall time of training, with waiting for data and without validation."""


class TrainingTally:
    """Adds up tokens, samples and seconds of training on this rank, and apart from them the seconds of validation.

    Tokens are those that a step says it trained on, under ``tokens`` in what it returns, as where it samples
    completions itself or compares them; otherwise those of its batch (``attention_mask``). Batches that are of another
    kind count their time only. Tokens stay a tensor: reading them each step would make the GPU wait.

    Args:
        clock: Returns seconds from any fixed moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since: float | None = None
        self._paused_at: float | None = None
        self.tokens = torch.zeros((), dtype=torch.long)
        self.samples = 0
        self.seconds = 0.0
        self.validation_seconds = 0.0

    @property
    def totals(self) -> TrainingTotals:
        """The totals at the last batch's end."""
        return TrainingTotals(self.tokens, self.samples, self.seconds)

    def start(self) -> None:
        """Starts the clock, at the first step of a run or of a resumed one."""
        self._since, self._paused_at = self._clock(), None

    def pause(self) -> None:
        """Books the time to training and what follows to validation; without effect while the clock stands."""
        if self._since is not None:
            self._book()
            self._since, self._paused_at = None, self._clock()

    def resume(self) -> None:
        """Ends a pause; without effect where there was none, as in the sanity check before training."""
        if self._paused_at is not None:
            now = self._clock()
            self.validation_seconds += now - self._paused_at
            self._since, self._paused_at = now, None

    def add(self, batch: Any, outputs: Any = None) -> None:
        """Counts a batch that training has just finished, and what its step returned."""
        if isinstance(batch, PromptBatch | PreferenceBatch | GroupBatch):
            told = outputs.get("tokens") if isinstance(outputs, Mapping) else None
            tokens = _tokens(batch) if told is None else told
            self.tokens = self.tokens.to(tokens.device) + tokens
            self.samples += len(batch)
        self._book()

    def stop(self) -> None:
        """Stops the clock; what followed the last batch, as saving a checkpoint, was no training."""
        self.resume()
        self._since = None

    def state_dict(self) -> dict[str, float]:
        """Returns this rank's totals as plain numbers.

        A checkpoint holds those of rank 0, and every rank loads them: after resuming on another number of ranks, sums
        over ranks are off for what was done before.
        """
        return {
            "tokens": int(self.tokens),
            "samples": self.samples,
            "seconds": self.seconds,
            "validation_seconds": self.validation_seconds,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continues from saved totals."""
        self.tokens = torch.tensor(int(state["tokens"]))
        self.samples = int(state["samples"])
        self.seconds = state["seconds"]
        self.validation_seconds = state["validation_seconds"]

    def _book(self) -> None:
        if self._since is not None:
            now = self._clock()
            self.seconds += now - self._since
            self._since = now


class TalliesTraining(Callback):
    """Base of callbacks that report what training has consumed: their tally stands while validation runs.

    The callback itself starts its ``tally``, adds batches to it and stops it.
    """

    def __init__(self) -> None:
        self.tally = TrainingTally()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops counting time as training."""
        self.tally.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts time as training again."""
        self.tally.resume()


def _tokens(batch: PromptBatch | PreferenceBatch | GroupBatch) -> Tensor:
    if isinstance(batch, PromptBatch):
        return batch.attention_mask.sum()
    return batch.prompts.attention_mask.sum() + batch.mask.sum()
