"""The trained model as a folder that other programs load."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from lit_vlm.callbacks.run_folder import is_trial_run, run_folder
from lit_vlm.functional.training_card import CARD, TrainedModel, read_report, training_card
from lit_vlm.interfaces.capabilities import Exportable
from lit_vlm.interfaces.errors import UserError


class ExportModel(Callback):
    """Writes the model as a Hugging Face folder when training ends.

    The folder appears complete or not at all: the model is written beside it and renamed. A run that fails or is
    stopped by hand exports nothing, nor does ``trainer.fast_dev_run``.

    Args:
        folder: Where to write; by default ``model`` in the run's folder. It must not exist yet.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.configuration: Mapping[str, Any] | None = None
        """The resolved recipe, which the command line tells; without it no model card is written."""
        self._run = Path()
        self._target: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the module can export and that nothing would be overwritten.

        Raises:
            UserError: The module is not ``Exportable``, no rank has the whole model, or the folder exists.
        """
        if stage != "fit" or is_trial_run(trainer):
            return
        if not isinstance(pl_module, Exportable):
            raise UserError(
                f"ExportModel needs a model with a method export(folder); {type(pl_module).__name__} has none: "
                "remove ExportModel from trainer.callbacks"
            )
        if _cuts_weights_up(trainer.strategy):
            raise UserError(
                f"ExportModel cannot put together the weights that {type(trainer.strategy).__name__} cuts up; remove "
                "it from trainer.callbacks and write the model from a checkpoint with lit-vlm export, or give "
                "trainer.strategy ddp"
            )
        folder = run_folder(trainer)
        self._run = folder
        self._target = Path(self.folder) if self.folder is not None else folder / "model"
        if self._target.exists():
            raise UserError(
                f"ExportModel would overwrite {str(self._target)!r}; give another ExportModel.folder or move it away"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exports on every rank, since the module may have to gather its weights; rank 0 puts the folder in place.

        This runs at the end of training and not of ``fit``, when the strategy has already let go of the model.
        """
        if self._target is None or not isinstance(pl_module, Exportable):
            return
        partial = self._target.with_name(f".{self._target.name}.partial")
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        trainer.strategy.barrier("export_model_begin")
        pl_module.export(partial)
        trainer.strategy.barrier("export_model_end")
        if trainer.is_global_zero:
            self._write_card(trainer, partial)
            partial.rename(self._target)
            print(f"exported the model to {self._target}", flush=True)
        # Nobody goes on before the folder is there.
        trainer.strategy.barrier("export_model_renamed")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the model card again, since a report may come after the export."""
        if self._target is not None and self._target.is_dir() and trainer.is_global_zero:
            self._write_card(trainer, self._target)

    def _write_card(self, trainer: Trainer, folder: Path) -> None:
        if self.configuration is None:
            return
        kind: Literal["model", "adapter"] = "adapter" if (folder / "adapter_config.json").exists() else "model"
        told = TrainedModel(self.configuration, kind, read_report(self._run), trainer.global_step)
        partial = folder / f".{CARD}"
        partial.write_text(training_card(told), encoding="utf-8")
        partial.replace(folder / CARD)


def _cuts_weights_up(strategy: Strategy) -> bool:
    if isinstance(strategy, DeepSpeedStrategy):
        return strategy.zero_stage_3
    return isinstance(strategy, FSDPStrategy)
