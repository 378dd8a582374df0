"""How far a run is: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lit_vlm.callbacks.readable_numbers import bounds_text, compact_number, duration_text, percent_text
from lit_vlm.interfaces.errors import UserError

LOSS = "train/loss"
REWARD = "train/reward/mean"
SPEED = "train/tokens_per_second"
RATE = "train/learning_rate"
SCORES = {"exact_match": "exact match", "verdict_accuracy": "verdict accuracy"}
"""Shares that validation may log, and the words for them."""
VALIDATION = "validation/"
SECONDS_BETWEEN_READINGS = 0.25


class Progress(RichProgressBar):
    """Shows loss, tokens per second and the last exact match, and verdict accuracy of judges, beside the bar.

    Modules that learn from rewards show the mean reward before the loss, which is no measure of progress there, and in
    plain lines in its place. Where standard output is not a terminal it prints a line every few optimizer steps
    instead, without control characters: step, loss, tokens per second, learning rate, time left; and one after each
    validation. Tokens per second come from ``Throughput``, which should stand before it among the callbacks.

    Args:
        every_n_steps: Optimizer steps between plain lines.
        plain: Prints plain lines (true) or draws the bar (false) whatever standard output is.
        refresh_rate: Redraws of the bar a second.
        console_kwargs: Settings of the bar's ``rich.console.Console``.
    """

    def __init__(
        self,
        every_n_steps: int = 20,
        plain: bool | None = None,
        refresh_rate: int = 10,
        console_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise UserError(f"Progress.every_n_steps is {every_n_steps}; give at least 1")
        super().__init__(refresh_rate=refresh_rate, console_kwargs=console_kwargs)
        self.every_n_steps = every_n_steps
        self.plain = plain
        self._lines = False
        self._scores: dict[str, float] = {}
        self._shown: dict[str, int | str | float | dict[str, float]] = {}
        self._next_reading = 0.0
        self._first_step = self._last_step = 0
        self._started = 0.0

    @property
    def is_enabled(self) -> bool:
        """Whether the live bar is drawn, on this rank."""
        return super().is_enabled and not self._lines

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses between the bar and lines."""
        super().setup(trainer, pl_module, stage)
        self._lines = not sys.stdout.isatty() if self.plain is None else self.plain

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure the time that is left."""
        super().on_train_start(trainer, pl_module)
        self._first_step = self._last_step = trainer.global_step
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line at the first, every n-th and last optimizer step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        step, before = trainer.global_step, self._last_step
        if step == before:
            return
        self._last_step = step
        total = total_steps(trainer, getattr(pl_module, "steps_per_batch", 1))
        is_nth = step // self.every_n_steps > before // self.every_n_steps  # a batch may have several steps
        if is_nth or before == self._first_step or (total is not None and step >= total):
            self._print_line(self._step_line(trainer, step, total))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers the shares, or prints a line with the figures."""
        metrics = trainer.callback_metrics
        found = {name: VALIDATION + name for name in SCORES if VALIDATION + name in metrics}
        self._scores |= {name: float(metrics[logged]) for name, logged in found.items()}
        self._next_reading = 0.0
        super().on_validation_end(trainer, pl_module)
        figures = []
        if "validation/loss" in metrics:
            figures.append(f"loss {float(metrics['validation/loss']):.4f}")
        for name, logged in found.items():
            low, high = metrics.get(f"{logged}_low"), metrics.get(f"{logged}_high")
            interval = "" if low is None or high is None else f" ({bounds_text(float(low), float(high))})"
            figures.append(f"{SCORES[name]} {percent_text(self._scores[name])}{interval}")
        if figures:
            self._print_line(" | ".join([f"validation at step {trainer.global_step}", *figures]))

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Returns what stands beside the bar, formatted.

        It is read a few times a second only, as each reading waits for the GPU.
        """
        now = time.monotonic()
        if now >= self._next_reading:
            self._next_reading = now + SECONDS_BETWEEN_READINGS
            self._shown = self._read(trainer)
        return self._shown

    def state_dict(self) -> dict[str, Any]:
        """Returns the last shares."""
        return {"exact_match": None, **self._scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Shows the last shares of an earlier run until there are newer ones."""
        self._scores = {name: share for name, share in state_dict.items() if share is not None}

    def _read(self, trainer: Trainer) -> dict[str, int | str | float | dict[str, float]]:
        metrics = trainer.callback_metrics
        shown: dict[str, int | str | float | dict[str, float]] = {}
        if REWARD in metrics:
            shown["reward"] = f"{float(metrics[REWARD]):.4f}"
        if LOSS in metrics:
            shown["loss"] = f"{float(metrics[LOSS]):.4f}"
        if SPEED in metrics:
            shown["tokens/s"] = compact_number(float(metrics[SPEED]))
        shown |= {SCORES[name]: percent_text(share) for name, share in self._scores.items()}
        known = (LOSS, REWARD, SPEED, *(VALIDATION + name for name in SCORES))
        for name, value in trainer.progress_bar_metrics.items():
            if name not in known and not isinstance(value, dict):
                shown[name.removeprefix("train/").replace("_", " ")] = f"{float(value):.4g}"
        return shown

    def _step_line(self, trainer: Trainer, step: int, total: int | None) -> str:
        metrics = trainer.callback_metrics
        parts = [f"step {step}" if total is None else f"step {step}/{total}"]
        if REWARD in metrics:
            parts.append(f"reward {float(metrics[REWARD]):.4f}")
        elif LOSS in metrics:
            parts.append(f"loss {float(metrics[LOSS]):.4f}")
        if SPEED in metrics:
            parts.append(f"{compact_number(float(metrics[SPEED]))} tokens/s")
        # The optimizer already holds the next step's rate; it is asked only where the module logs none.
        rate = metrics.get(RATE, trainer.optimizers[0].param_groups[0].get("lr") if trainer.optimizers else None)
        if rate is not None:
            parts.append(f"learning rate {float(rate):.2e}")
        parts.extend(f"{SCORES[name]} {percent_text(share)}" for name, share in self._scores.items())
        if total is not None:
            seconds = (time.monotonic() - self._started) / (step - self._first_step) * max(total - step, 0)
            parts.append(f"{duration_text(seconds)} left")
        return " | ".join(parts)

    def _print_line(self, line: str) -> None:
        # The base class disables the bar of every rank but the first.
        if self._lines and self._enabled:
            print(line, flush=True)


def total_steps(trainer: Trainer, steps_per_batch: int = 1) -> int | None:
    """Counts the optimizer steps of a whole run; None where it has no end in steps.

    Args:
        trainer: Says how long to train.
        steps_per_batch: Optimizer steps that a module takes by hand for each batch.

    ``trainer.estimated_stepping_batches`` would do, but reading it breaks resuming in mid-epoch (Lightning #20550).
    """
    ends = [] if trainer.max_steps == -1 else [trainer.max_steps]
    batches = trainer.num_training_batches
    if trainer.max_epochs not in (None, -1) and math.isfinite(batches):
        ends.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches) * steps_per_batch)
    return min(ends, default=None)
