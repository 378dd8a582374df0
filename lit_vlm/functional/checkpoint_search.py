"""Finds the newest whole checkpoint of a run, in ``RUNS/NAME/version_N/checkpoints``."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch

from lit_vlm.functional.checkpoint_files import fault_of
from lit_vlm.interfaces.errors import UserError

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints within the run's folder."""
SUFFIX = ".ckpt"


def newest_whole(run: Path) -> Path:
    """Returns the newest whole checkpoint of a run; those that are not whole are named in a warning and passed by.

    Args:
        run: The folder of a run, ``RUNS/NAME/version_N``, or of all runs of a name, ``RUNS/NAME``: then the version of
            the highest number that has a whole checkpoint.

    Raises:
        UserError: There is none.
    """
    faults: list[str] = []
    for path in checkpoints_of(run):
        fault = fault_of(path)
        if fault is None:
            for told in faults:
                logger.warning("%s; %s is used in its place", told, path)
            return path
        faults.append(f"the checkpoint {path} {fault}")
    if faults:
        raise UserError(f"--ckpt_path: no checkpoint in {str(run)!r} is whole: {'; '.join(faults)}")
    raise UserError(
        f"--ckpt_path: there is no checkpoint in {str(run)!r}; leave --ckpt_path out to begin anew, or give a "
        "checkpoint or the folder of a run that fit has written"
    )


def newest_beside(path: Path) -> Path | None:
    """Returns the newest whole checkpoint in the same folder as another, and of the same suffix; None for none."""
    return next((other for other in _in_folder(path.parent) if other != path and fault_of(other) is None), None)


def checkpoints_of(run: Path) -> Iterator[Path]:
    """Yields the checkpoints of a run, or of all runs of a name, the newest first, whole or not.

    Runs are told by the number of their version and checkpoints by their steps, since the times of files do not outlast
    copying; only where the steps are the same the later file comes first.
    """
    if not run.is_dir():
        return
    if (run / CHECKPOINTS).is_dir():
        yield from _in_folder(run / CHECKPOINTS)
        return
    for version in sorted(filter(Path.is_dir, run.iterdir()), key=_version, reverse=True):
        yield from _in_folder(version / CHECKPOINTS)


def step_of(path: Path) -> int:
    """Returns the optimizer steps that a checkpoint was saved after: by its name, or else by what it holds.

    Returns:
        -1 for a file that is not whole, or would run code, and whose name does not tell.
    """
    told = re.search(r"step=(\d+)", path.name)
    if told is not None:
        return int(told.group(1))
    if path.is_dir() or fault_of(path) is not None:
        return -1
    try:
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("global_step", -1))
    except UnpicklingError:  # it would run code, which whoever is given it refuses
        return -1


def _in_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix == SUFFIX]
    return sorted(found, key=lambda path: (step_of(path), path.stat().st_mtime_ns), reverse=True)


def _version(folder: Path) -> tuple[int, float]:
    told = re.fullmatch(r"version_(\d+)", folder.name)
    return (int(told.group(1)) if told else -1, folder.stat().st_mtime)
