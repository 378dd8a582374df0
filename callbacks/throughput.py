"""How fast training goes."""

from __future__ import annotations

from collections import deque
from typing import Any

from lightning import LightningModule, Trainer

from lit_vlm.callbacks.training_tally import TalliesTraining, TrainingTotals
from lit_vlm.interfaces.errors import UserError


class Throughput(TalliesTraining):
    """Logs ``train/tokens_per_second`` and ``train/samples_per_second`` over the last optimizer steps.

    Tokens are those that count, prompts and completions that the module sampled or compared included. The rates are
    summed over ranks; waiting for data counts as time, validation does not. Batches of a kind that is not known here
    give rates of 0. Totals are kept over a resume, the window begins anew.

    Args:
        window: Optimizer steps that a rate is a mean of.
    """

    def __init__(self, window: int = 20) -> None:
        if window < 1:
            raise UserError(f"Throughput.window is {window}; give at least 1 optimizer step")
        super().__init__()
        self.window = window
        self._marks: deque[TrainingTotals] = deque(maxlen=window + 1)
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock and the window."""
        self._marks.clear()
        self._marks.append(self.tally.totals)
        self._last_step = trainer.global_step
        self.tally.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, and logs the rates where it completed an optimizer step."""
        self.tally.add(batch, outputs)
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self._marks.append(self.tally.totals)
        first, last = self._marks[0], self._marks[-1]
        # A coarse clock may show no time at all; skipping the log on one rank would leave the others waiting.
        seconds = max(last.seconds - first.seconds, 1e-9)
        tokens = last.tokens - first.tokens.to(last.tokens.device)
        for name, rate in (("tokens", tokens / seconds), ("samples", (last.samples - first.samples) / seconds)):
            pl_module.log(
                f"train/{name}_per_second",
                rate,
                on_step=True,
                on_epoch=False,
                sync_dist=True,
                reduce_fx="sum",
                batch_size=1,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self.tally.stop()

    def state_dict(self) -> dict[str, Any]:
        """Returns the totals of this rank."""
        return {"tally": self.tally.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the totals of an earlier run."""
        self.tally.load_state_dict(state_dict["tally"])
