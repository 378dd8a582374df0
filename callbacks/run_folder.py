"""Where a run keeps its files, and whether it is one that keeps any."""

from pathlib import Path

from lightning import Trainer


def run_folder(trainer: Trainer) -> Path:
    """Finds the folder of the run: the logger's, or ``trainer.default_root_dir`` without a logger.

    Every rank must call this, since Lightning broadcasts the name from rank 0.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


def is_trial_run(trainer: Trainer) -> bool:
    """Says whether ``trainer.fast_dev_run`` is on: a run that only tries the code and should leave nothing behind."""
    # The Trainer sets this attribute by name, where a type checker does not see it.
    return bool(getattr(trainer, "fast_dev_run", False))
