"""The Trainer of this framework's side of a benchmark of whole steps."""

import logging
import warnings

from lightning import Callback, Trainer


def step_trainer(callback: Callback) -> Trainer:
    """Makes a Trainer that takes steps until the callback stops it, and neither logs, validates nor saves."""
    # Advice that does not concern a measurement.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=10**6,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[callback],
    )
