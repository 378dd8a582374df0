"""Where a run keeps its files."""

from pathlib import Path

from lightning import Trainer


def run_folder(trainer: Trainer) -> Path:
    """Names the folder of a run: the logger's, or the Trainer's root where there is no logger.

    Under several processes every rank must call this, as the logger tells the first rank's folder to all.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)
