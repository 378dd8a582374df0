"""The progress bar: loss, tokens a second, exact match."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

SHOWN = {
    "train/loss": "loss",
    "train/tokens_per_second": "tokens/s",
    "validation/exact_match": "exact match",
}


def readable(figure: float) -> str:
    """Writes a figure briefly.

    Example:
        >>> readable(0.123456), readable(12345.6)
        ('0.123', '12,346')
    """
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3f}"


class Progress(RichProgressBar):
    """Shows loss, tokens a second and the last exact match; where nobody watches, prints a plain line now and then.

    Args:
        every_n_steps: Optimizer steps between plain lines, where the output is no terminal.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__(leave=True)
        self.every_n_steps = every_n_steps
        self.plain = not sys.stdout.isatty()
        self._start = 0.0
        self._first_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses between the bar and plain lines."""
        super().setup(trainer, pl_module, stage)
        if self.plain:
            self.disable()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes when and where the run began."""
        super().on_train_start(trainer, pl_module)
        self._start, self._first_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a plain line."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.plain and trainer.is_global_zero and stepped and trainer.global_step % self.every_n_steps == 0:
            print(self.plain_line(trainer), flush=True)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Names the figures shortly and leaves out the rest."""
        figures = trainer.progress_bar_metrics
        return {short: readable(figures[name]) for name, short in SHOWN.items() if name in figures}

    def plain_line(self, trainer: Trainer) -> str:
        """Describes the state of a run in one line."""
        figures = trainer.callback_metrics
        parts = [f"step {trainer.global_step}"]
        parts += [f"{short} {readable(float(figures[name]))}" for name, short in SHOWN.items() if name in figures]
        if "train/learning_rate" in figures:
            parts.append(f"learning rate {float(figures['train/learning_rate']):.2e}")
        if (left := self._seconds_left(trainer)) is not None:
            parts.append(f"{left / 60:.1f} min left")
        return " | ".join(parts)

    def _seconds_left(self, trainer: Trainer) -> float | None:
        ends = []
        if trainer.max_steps > 0:
            ends.append(trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and isinstance(trainer.num_training_batches, int):
            per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
            ends.append(trainer.max_epochs * per_epoch)
        done = trainer.global_step - self._first_step
        if not ends or done < 1:
            return None
        return (min(ends) - trainer.global_step) * (time.perf_counter() - self._start) / done
