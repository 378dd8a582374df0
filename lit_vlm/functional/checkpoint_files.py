"""Checkpoints on disk that are whole or not there at all: written beside and renamed, with a digest that is verified.

A checkpoint is one file (a zip archive of ``torch.save``, whose comment holds the digest), or, where a strategy writes
each rank's share of the weights, a folder, in which a file that lists all others is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, cast

import torch

from lit_vlm.functional.shard_writer import sync_to_disk
from lit_vlm.interfaces.errors import UserError

COMPLETE = "complete.json"
"""The file of a checkpoint folder that is written last, with the sizes of all others."""
MARK = b"lit-vlm sha256 "
COMMENT_LENGTH = len(MARK) + 64
SHARDED_FILES = (COMPLETE, ".metadata", "meta.pt", "latest")
"""What tells a checkpoint folder from any other: one of these files, of PyTorch, Lightning or DeepSpeed."""
CHUNK = 1 << 22


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes a file that appears whole or not at all, even if the machine stops; one of that name is replaced.

    Args:
        checkpoint: Plain data and tensors.
        path: The file; its folder is made if absent.

    Raises:
        OSError: It cannot be written, such as where the disk is full; what was written so far is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w+b") as file:
            hashed = _Hashed(file)
            try:
                torch.save(dict(checkpoint), cast(IO[bytes], hashed))
            except RuntimeError as fault:
                # The writer of archives tells of a position that it did not expect, and not of the disk.
                if hashed.fault is not None:
                    raise hashed.fault from fault
                raise
            # The comment's length, which is the archive's last number, counts as 0 in the digest.
            comment = MARK + hashed.digest.hexdigest().encode()
            file.seek(-2, os.SEEK_END)
            file.write(struct.pack("<H", len(comment)) + comment)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_to_disk(path.parent)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a file of plain data and tensors, after verifying it.

    Args:
        path: The file.
        map_location: Where tensors go, as in ``torch.load``.

    Raises:
        UserError: It is not whole, or holds something else than plain data and tensors.
    """
    fault = fault_of(path)
    if fault is not None:
        raise UserError(f"the checkpoint {path} {fault}")
    try:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as mistake:
        raise UserError(
            f"the checkpoint {path} holds objects that would run code while they are loaded, which is refused; give "
            "one that fit has written"
        ) from mistake
    return loaded


def fault_of(path: Path) -> str | None:
    """Tells why a checkpoint is not whole, such as "was cut short"; None where it is whole.

    Files without a digest, which other programs write, are verified by the archive's own check sums.
    """
    if path.is_dir():
        return _fault_of_folder(path)
    if not path.is_file():
        return "does not exist"
    found = path.stat()
    return _fault_of_file(path.resolve(), found.st_size, found.st_mtime_ns)


def is_checkpoint_folder(path: Path) -> bool:
    """Tells whether a folder is a checkpoint, whole or not."""
    return path.is_dir() and any((path / name).exists() for name in SHARDED_FILES)


def mark_whole(folder: Path) -> None:
    """Writes down that all files of a checkpoint folder are there, with their sizes; for one rank, after all others."""
    sizes = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != COMPLETE
    }
    for name in sizes:
        sync_to_disk(folder / name)
    partial = folder / f".{COMPLETE}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / COMPLETE)
    sync_to_disk(folder)


def unmark_whole(folder: Path) -> None:
    """Removes the mark before a folder is written anew."""
    (folder / COMPLETE).unlink(missing_ok=True)


class _Hashed:
    """Hashes what is written to a file, and keeps the fault that the writer of archives hides."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Passes data on."""
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as fault:
            self.fault = fault
            raise

    def flush(self) -> None:
        """Does nothing: the file is flushed once, when it is whole."""


@lru_cache(maxsize=64)
def _fault_of_file(path: Path, size: int, changed: int) -> str | None:
    # Size and time of the last change name what was verified.
    if not zipfile.is_zipfile(path):
        return "is no checkpoint, or was cut short"
    with path.open("rb") as file:
        file.seek(max(0, size - COMMENT_LENGTH - 2))
        end = file.read()
        if not end[2:].startswith(MARK):
            # An archive without a comment ends with its last record.
            is_other = end[-22:].startswith(b"PK\x05\x06") and end.endswith(b"\0\0")
            return _fault_of_archive(path) if is_other else "is no checkpoint, or was cut short"
        digest = hashlib.sha256()
        file.seek(0)
        left = size - len(end)
        while chunk := file.read(min(CHUNK, left)):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")
    told = end[2 + len(MARK) :].decode("ascii", "replace")
    return None if digest.hexdigest() == told else "was altered after it was written"


def _fault_of_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return None if archive.testzip() is None else "was altered after it was written"
    except zipfile.BadZipFile:
        return "was altered after it was written"


def _fault_of_folder(folder: Path) -> str | None:
    if not is_checkpoint_folder(folder):
        return "is no checkpoint"
    try:
        sizes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"was not finished: it lacks {COMPLETE}, which is written last"
    except ValueError:
        return "was altered after it was written"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            return f"was altered after it was written: {name} is missing or of another size"
    return None
