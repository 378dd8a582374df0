"""Keeps the coefficients that callbacks turn with a run's checkpoints."""

from typing import Any

from lightning import LightningModule

from lit_vlm.interfaces.coefficients import Coefficients


class SavesCoefficients(LightningModule):
    """Goes before the other base of a module that has ``coefficients``: saves and restores their values."""

    coefficients: Coefficients

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the coefficients."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["coefficients"] = self.coefficients.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the coefficients; those that the checkpoint does not know stay."""
        super().on_load_checkpoint(checkpoint)
        self.coefficients.load_state_dict(checkpoint.get("coefficients", {}))
