"""Finds the checkpoint that ``--ckpt_path`` means: a file or folder, a run's newest, or a run's best."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lit_vlm.callbacks.atomic_checkpoint_io import refuse_broken
from lit_vlm.callbacks.checkpointing import Checkpointing
from lit_vlm.functional.checkpoint_files import COMPLETE, is_checkpoint_folder
from lit_vlm.functional.checkpoint_search import CHECKPOINTS, checkpoints_of, newest_whole
from lit_vlm.interfaces.errors import UserError

logger = logging.getLogger(__name__)

LIGHTNINGS_OWN = ("hpc",)
"""What ``ckpt_path`` may say in the place of a path and Lightning looks for."""


def chosen_checkpoint(path: str, trainer: Mapping[str, Any]) -> tuple[str, bool]:
    """Finds what ``--ckpt_path`` means.

    Args:
        path: A checkpoint, the folder of a run (its newest whole checkpoint), ``last`` (the newest whole one of all
            runs of this name), ``best`` (the best that the newest knows of), or ``hpc``.
        trainer: The Trainer's options.

    Returns:
        The path of a checkpoint, or a word that is left to Lightning; and whether a run that trains from it goes on
        with the work of another, which was asked for by name.

    Raises:
        UserError: It is a remote address, nothing, an exported model, another file, or not whole; or a run has none.
    """
    if path in LIGHTNINGS_OWN:
        return path, False
    if "://" in path:
        raise UserError(f"--ckpt_path: {path!r} is a remote address; download it and give the path of the file")
    if path in ("last", "best") and not Path(path).exists():
        newest = newest_whole(_runs(trainer))
        return (str(newest), True) if path == "last" else (_best_of(newest), False)
    given = Path(path)
    if not given.exists():
        raise UserError(f"--ckpt_path: there is no {path!r}; give a checkpoint that fit has written, such as *.ckpt")
    if (given / "config.json").exists():
        raise UserError(f"--ckpt_path: {path!r} is an exported model; give it as --model.backbone.checkpoint")
    if given.is_dir():
        return _in_folder(given)
    if not zipfile.is_zipfile(given) and given.suffix != ".ckpt":
        raise UserError(
            f"--ckpt_path: {path!r} is no checkpoint, or one that was cut short; give another that fit has written"
        )
    refuse_broken(given)
    return path, False


def _in_folder(folder: Path) -> tuple[str, bool]:
    if is_checkpoint_folder(folder):
        if (folder / COMPLETE).exists() or folder.suffix == ".ckpt":
            refuse_broken(folder)
        return str(folder), False
    if folder.name == CHECKPOINTS:
        folder = folder.parent
    if next(checkpoints_of(folder), None) is None:
        raise UserError(
            f"--ckpt_path: {str(folder)!r} is a folder without a checkpoint; give the folder of a run that fit has "
            "written, such as runs/NAME/version_0, or a checkpoint in it"
        )
    return str(newest_whole(folder)), True


def _runs(trainer: Mapping[str, Any]) -> Path:
    """Tells where the runs of this name lie: where checkpoints are saved, by the options of callback and logger."""
    for callback in _listed(trainer.get("callbacks")):
        if str(callback.get("class_path", "")).endswith(f".{Checkpointing.__name__}"):
            folder = (callback.get("init_args") or {}).get("folder")
            if folder is not None:
                return Path(folder).parent if Path(folder).name == CHECKPOINTS else Path(folder)
    for board in _listed(trainer.get("logger")):
        options = board.get("init_args") or {}
        if options.get("save_dir") and options.get("name"):
            return Path(options["save_dir"], options["name"])
    return Path(trainer.get("default_root_dir") or ".")


def _listed(options: Any) -> Iterator[Mapping[str, Any]]:
    for each in options if isinstance(options, list) else [options]:
        if hasattr(each, "get"):
            yield each


def _best_of(newest: Path) -> str:
    """Reads which checkpoint was the best when another was saved."""
    if newest.is_dir():
        raise UserError(f"--ckpt_path best: {newest} is in pieces and does not tell; give the path of a checkpoint")
    saved = torch.load(newest, map_location="cpu", mmap=True, weights_only=True)
    best = saved.get("callbacks", {}).get(Checkpointing.__name__, {}).get("best")
    if not best or not Path(best).exists():
        raise UserError(
            "--ckpt_path best: the newest checkpoint, "
            f"{newest}, knows of no best one; train with Checkpointing.monitor, or give a path or last"
        )
    refuse_broken(Path(best))
    return str(best)
