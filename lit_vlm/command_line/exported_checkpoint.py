"""Finds the checkpoint that is to be exported, and the configuration of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lit_vlm.functional.checkpoint_files import COMPLETE, fault_of, is_checkpoint_folder
from lit_vlm.functional.checkpoint_search import checkpoints_of
from lit_vlm.functional.training_checkpoint import saved_callbacks
from lit_vlm.interfaces.errors import UserError

CONFIGURATION = "config.yaml"
BEST_ENTRIES = ("best", "best_model_path")
"""Where callbacks that save checkpoints keep the path of the best."""


@dataclass(frozen=True)
class Exported:
    """What is to be exported."""

    checkpoint: Path
    configuration: Path
    run: Path
    """Folder of the run's figures."""


def find_exported(
    source: Path, which: Literal["newest", "best"] = "newest", configuration: Path | None = None
) -> Exported:
    """Finds a checkpoint and its configuration.

    Args:
        source: A run's folder (or that of all runs of a name), a checkpoint file, or the folder of one in pieces.
        which: Of a run's folder.
        configuration: The run's ``config.yaml``; None looks beside the checkpoint and above it.

    Raises:
        UserError: There is none, or it is not whole.
    """
    if not source.exists():
        raise UserError(f"there is no {str(source)!r}; give a run's folder, such as runs/NAME/version_0, or a .ckpt")
    if source.is_file() or is_checkpoint_folder(source):
        checkpoint = source
        _refuse_broken(checkpoint)
        if which == "best":
            raise UserError("--checkpoint best is for a run's folder; leave it out, or give that folder")
    else:
        checkpoint = _newest(source)
        if which == "best":
            checkpoint = _best(checkpoint)
    if configuration is None:
        configuration = _configuration_of(checkpoint)
    elif not configuration.is_file():
        raise UserError(f"--config: there is no file {str(configuration)!r}")
    return Exported(checkpoint, configuration, configuration.parent)


def _newest(run: Path) -> Path:
    faults = []
    for path in checkpoints_of(run):
        fault = fault_of(path)
        if fault is None:
            return path
        faults.append(f"{path.name} {fault}")
    if faults:
        raise UserError(f"no checkpoint in {str(run)!r} is whole: {'; '.join(faults)}")
    if (run / "config.json").exists():
        raise UserError(f"{str(run)!r} is an exported model already; give a run's folder or a .ckpt")
    raise UserError(f"there is no checkpoint in {str(run)!r}; give a run's folder, such as runs/NAME/version_0")


def _best(newest: Path) -> Path:
    """Reads which checkpoint was the best when the newest was saved."""
    for state in saved_callbacks(newest).values():
        for entry in BEST_ENTRIES:
            told = state.get(entry) if isinstance(state, dict) else None
            # A run that was moved keeps its checkpoints side by side.
            path = newest.with_name(Path(told).name) if isinstance(told, str) and told else None
            if path is not None and path.exists():
                _refuse_broken(path)
                return path
    raise UserError(
        f"--checkpoint best: {newest} knows of no best one; train with Checkpointing.monitor, or leave it out"
    )


def _refuse_broken(checkpoint: Path) -> None:
    # Other programs write no list of a folder's files; their own description comes last.
    fault = None if checkpoint.is_dir() and not (checkpoint / COMPLETE).exists() else fault_of(checkpoint)
    if fault is not None:
        raise UserError(f"the checkpoint {str(checkpoint)!r} {fault}; give another one")


def _configuration_of(checkpoint: Path) -> Path:
    for path in (folder / CONFIGURATION for folder in (checkpoint.parent, checkpoint.parent.parent)):
        if path.is_file():
            return path
    raise UserError(
        f"there is no {CONFIGURATION} of the run beside {str(checkpoint)!r} or above it; give it with --config"
    )
