"""What the model writes about held-out samples, as pictures over the course of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from lit_vlm.callbacks.contact_sheet import draw_contact_sheet
from lit_vlm.callbacks.readable_numbers import percent_text
from lit_vlm.callbacks.run_folder import run_folder
from lit_vlm.interfaces.capabilities import completions_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion

TAG = "validation/completions"


class ValidationPictures(Callback):
    """Draws some completions of a validation, right and wrong ones in equal parts as far as there are.

    The picture goes to TensorBoard, or without a TensorBoard logger into ``validation_pictures`` in the run's folder.
    The sanity check is drawn where it runs over the whole set (``trainer.num_sanity_val_steps: -1``). Only samples of
    rank 0 are shown.

    Args:
        rows: Completions to draw.
        every_n_validations: Draws the first validation and every n-th after it.
        columns: Cards side by side.
    """

    def __init__(self, rows: int = 12, every_n_validations: int = 1, columns: int = 3) -> None:
        for name, value in (("rows", rows), ("every_n_validations", every_n_validations), ("columns", columns)):
            if value < 1:
                raise UserError(f"ValidationPictures.{name} is {value}; give at least 1")
        self.rows = rows
        self.every_n_validations = every_n_validations
        self.columns = columns
        self.validations = 0
        self._selection = MixedSelection(rows)
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run's folder, on every rank."""
        self._folder = run_folder(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a new selection."""
        self._selection = MixedSelection(self.rows)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes what may be shown of a batch."""
        if trainer.is_global_zero and self._is_drawn(trainer):
            self._selection.add(completions_of(outputs))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the picture."""
        shown = self._selection.chosen()
        if shown:
            seen = self._selection
            share = f"; {percent_text(seen.right / seen.judged)} of all are right" if seen.judged else ""
            where = f" on rank 0 of {trainer.world_size}" if trainer.world_size > 1 else ""
            title = f"step {trainer.global_step}: {len(shown)} of {seen.seen} held-out samples{where}{share}"
            self._publish(trainer, draw_contact_sheet(shown, columns=self.columns, title=title))
        self._selection = MixedSelection(self.rows)
        if not trainer.sanity_checking:
            self.validations += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns how many validations there were."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues to count."""
        self.validations = state_dict["validations"]

    def _is_drawn(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking:
            return trainer.num_sanity_val_steps == float("inf")
        return self.validations % self.every_n_validations == 0

    def _publish(self, trainer: Trainer, sheet: Image.Image) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for logger in loggers:
            pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).view(sheet.height, sheet.width, 3)
            logger.experiment.add_image(TAG, pixels, trainer.global_step, dataformats="HWC")
        if not loggers:
            path = self._folder / "validation_pictures" / f"step_{trainer.global_step:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(path)


class MixedSelection:
    """Chooses the first right and the first wrong completions of a stream, holding no more than may be shown.

    Args:
        count: Completions to choose.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._first: dict[bool, list[tuple[int, Completion]]] = {True: [], False: []}
        self.seen = 0
        self.judged = 0
        self.right = 0

    def add(self, completions: Sequence[Completion]) -> None:
        """Takes the next completions; one without a verdict is held to be not right."""
        for completion in completions:
            correct = completion.verdict is not None and completion.verdict.correct
            if len(self._first[correct]) < self._count:
                self._first[correct].append((self.seen, completion))
            self.seen += 1
            self.judged += completion.verdict is not None
            self.right += correct

    def chosen(self) -> list[Completion]:
        """Returns the choice in the stream's order: half right, half wrong, more of one where the other is short."""
        right, wrong = self._first[True], self._first[False]
        wrong_count = min(len(wrong), max((self._count + 1) // 2, self._count - len(right)))
        chosen = wrong[:wrong_count] + right[: self._count - wrong_count]
        return [completion for _, completion in sorted(chosen, key=lambda numbered: numbered[0])]
