"""Lets a resumed run go on where it stopped where Lightning alone would not."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loops import _Loop
from lightning.pytorch.loops.fit_loop import _FitLoop


@runtime_checkable
class _Resumable(Protocol):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a state."""


class Resumption(Callback):
    """Gives the training loader its state again, and begins the next epoch where one had just ended.

    Lightning forgets the loader's state where ``trainer.estimated_stepping_batches`` was read before, by a scheduler or
    a callback (PL#20550), and where an epoch had just ended in a run without ``max_steps``. In a run with
    ``max_steps`` it would end that epoch twice, and count one too many.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts the loop that knows of ended epochs in the place of Lightning's."""
        if type(trainer.fit_loop) is _FitLoop:
            trainer.fit_loop.__class__ = _ResumedFitLoop

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the states of the training loaders."""
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        self._states = list(loops.get("state_dict", {}).get("combined_loader", []))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands the states over, before the first batch is asked for."""
        states, self._states = self._states, []
        loaders = trainer.fit_loop._combined_loader
        if states and loaders is not None:
            resumable = [loader for loader in loaders.flattened if isinstance(loader, _Resumable)]
            for loader, state in zip(resumable, states, strict=True):
                loader.load_state_dict(state)


class _ResumedFitLoop(_FitLoop):
    def reset(self) -> None:
        """Goes on after an epoch that was over when the checkpoint was saved, as Lightning does without max_steps."""
        counts: Any = self.epoch_progress.current
        if self.restarting and counts.ready == counts.started == counts.processed == counts.completed + 1:
            _go_on(self)
        super().reset()


def _go_on(loop: _Loop) -> None:
    # The property would have it otherwise where there are max_steps.
    loop._restarting = False
    for inner in vars(loop).values():
        if isinstance(inner, _Loop):
            _go_on(inner)
