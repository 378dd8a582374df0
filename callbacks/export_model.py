"""Writes the trained model for the rest of the world."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from lit_vlm.callbacks.run_folder import run_folder
from lit_vlm.interfaces.capabilities import Exportable
from lit_vlm.interfaces.errors import UserError


class ExportModel(Callback):
    """Writes a Hugging Face folder when training ends: whole, or not at all.

    Args:
        folder: Where to write; ``model`` in the run's folder by default. It must not exist yet.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks before any step that there will be something to write and a place for it.

        Raises:
            UserError: The module cannot be exported, or the folder exists.
        """
        if not isinstance(pl_module, Exportable):
            raise UserError(f"ExportModel needs a module that can be exported; {type(pl_module).__name__} cannot")
        if stage == "fit" and self._target(trainer).exists():
            raise UserError(f"ExportModel.folder: {self._target(trainer)} exists; name another folder")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes beside the target and renames."""
        target = self._target(trainer)
        partial = target.with_name(f".{target.name}.partial")
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        trainer.strategy.barrier("export")
        if isinstance(pl_module, Exportable):
            pl_module.export(partial)
        trainer.strategy.barrier("exported")
        if trainer.is_global_zero:
            partial.rename(target)
            print(f"model written to {target}")

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.folder) if self.folder is not None else run_folder(trainer) / "model"
