"""Shows what the model answers on held-out samples, as pictures."""

from __future__ import annotations

from typing import Any

import numpy
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_vlm.callbacks.contact_sheet import draw_contact_sheet
from lit_vlm.callbacks.run_folder import run_folder
from lit_vlm.interfaces.capabilities import completions_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion


class ValidationPictures(Callback):
    """Draws the first completions of a validation, with question, answer and verdict.

    They go to TensorBoard, or as PNG files into the run's folder where another logger is used.

    Args:
        rows: Samples drawn, at least 1; always the first ones, so that pictures of later steps can be compared.
        every_n_validations: Draws after every so many validations, at least 1.
    """

    def __init__(self, rows: int = 16, every_n_validations: int = 1) -> None:
        for name, value in (("rows", rows), ("every_n_validations", every_n_validations)):
            if value < 1:
                raise UserError(f"ValidationPictures.{name} is {value}; give at least 1")
        self.rows = rows
        self.every_n_validations = every_n_validations
        self._validations = 0
        self._completions: list[Completion] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self._completions = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first completions."""
        missing = self.rows - len(self._completions)
        self._completions += completions_of(outputs)[:missing]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws and hands over the sheet."""
        self._validations += 1
        if not trainer.is_global_zero or not self._completions or self._validations % self.every_n_validations:
            return
        sheet = draw_contact_sheet([[("", completion)] for completion in self._completions])
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for board in boards:
            pixels = numpy.asarray(sheet)
            board.experiment.add_image("validation/completions", pixels, trainer.global_step, dataformats="HWC")
        if not boards:
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            sheet.save(folder / f"validation-step-{trainer.global_step}.png")

    def state_dict(self) -> dict[str, int]:
        """Keeps how many validations there were."""
        return {"validations": self._validations}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on counting."""
        self._validations = state["validations"]
