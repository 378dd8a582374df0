"""Reads the weights of a run's checkpoint one at a time, from a single file or from shards, and never runs its content.

A single file is mapped: what is not asked for is not read. Shards are read by ``torch.distributed.checkpoint``, in one
process and without a process group.
"""

from __future__ import annotations

import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from lit_vlm.functional.sharded_metadata import BROKEN_PICKLE, REST, is_sharded, read_metadata
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import NamedTensors

WEIGHTS = "state_dict"
DEEPSPEED = "zero_to_fp32.py"


class TrainingCheckpoint(NamedTensors):
    """The weights of a checkpoint that a Trainer wrote, under the names of the module that was trained."""

    path: Path

    @property
    @abstractmethod
    def progress(self) -> Mapping[str, int]:
        """``global_step`` and ``epoch``, as far as the checkpoint tells them."""


def open_training_checkpoint(path: Path) -> TrainingCheckpoint:
    """Opens a checkpoint: a file, or a folder of shards as FSDP and ``ModelParallelStrategy`` write it.

    Raises:
        UserError: There is none, it is of another kind, is damaged, or would run code.
    """
    if is_sharded(path):
        return ShardedCheckpoint(path)
    if path.is_dir():
        if (path / DEEPSPEED).is_file():
            raise UserError(
                f"{str(path)!r} was written by DeepSpeed; turn it into one file with its own {DEEPSPEED}, or train "
                "with trainer.strategy fsdp"
            )
        raise UserError(f"{str(path)!r} is no checkpoint; give a run's folder, a .ckpt file or a folder of shards")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {str(path)!r}")
    return SingleFileCheckpoint(path)


class SingleFileCheckpoint(TrainingCheckpoint):
    """A ``.ckpt`` file; see ``open_training_checkpoint``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = load_checkpoint_file(path)
        held = content.get(WEIGHTS)
        if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
            raise UserError(f"{str(path)!r} holds no {WEIGHTS} of tensors; give a checkpoint that fit has written")
        self._held: dict[str, Tensor] = held
        self._progress = _progress(content)

    @property
    def names(self) -> Sequence[str]:
        """Names of all weights."""
        return list(self._held)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a weight's shape."""
        return tuple(self._held[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """Returns a weight's type."""
        return self._held[name].dtype

    def read(self, name: str) -> Tensor:
        """Returns one weight, whose numbers the system reads when they are used."""
        return self._held[name]

    @property
    def progress(self) -> Mapping[str, int]:
        """``global_step`` and ``epoch``."""
        return self._progress


class ShardedCheckpoint(TrainingCheckpoint):
    """A folder of shards; see ``open_training_checkpoint``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _LimitedReader(path)
        prefix = f"{WEIGHTS}."
        self._stored = {
            name.removeprefix(prefix): (name, stored)
            for name, stored in self._reader.description.state_dict_metadata.items()
            if name.startswith(prefix) and isinstance(stored, TensorStorageMetadata)
        }
        if not self._stored:
            raise UserError(f"{str(path)!r} holds no {WEIGHTS} of tensors; give a checkpoint that fit has written")

    @property
    def names(self) -> Sequence[str]:
        """Names of all weights."""
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of the whole weight."""
        return tuple(self._stored[name][1].size)

    def dtype(self, name: str) -> torch.dtype:
        """Returns a weight's type."""
        return self._stored[name][1].properties.dtype

    def read(self, name: str) -> Tensor:
        """Puts one weight together from its pieces.

        Raises:
            UserError: A shard is damaged.
        """
        key, stored = self._stored[name]
        whole = torch.empty(stored.size, dtype=stored.properties.dtype)
        if sum(torch.Size(chunk.sizes).numel() for chunk in stored.chunks) != whole.numel():
            raise UserError(f"{str(self.path)!r} does not hold all pieces of {name!r}; give a whole checkpoint")
        try:
            with warnings.catch_warnings():
                # One process reads all of it, which is what torch warns of.
                warnings.filterwarnings("ignore", message="torch.distributed is")
                distributed_checkpoint.load({key: whole}, storage_reader=self._reader, no_dist=True)
        except (*BROKEN_PICKLE, AssertionError, OSError, distributed_checkpoint.CheckpointException) as fault:
            told = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
            raise UserError(f"{str(self.path)!r}: {name!r} cannot be read: {told}; give another checkpoint") from fault
        return whole

    @property
    def progress(self) -> Mapping[str, int]:
        """``global_step`` and ``epoch``."""
        path = self.path / REST
        return _progress(load_checkpoint_file(path)) if path.is_file() else {}


class _LimitedReader(FileSystemReader):
    """Reads shards as torch does, but for their description, which it would unpickle without limits."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.description = read_metadata(path)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Returns the description, read once."""
        return self.description


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """Maps a file that ``torch.save`` has written; tensors and plain values only.

    Raises:
        UserError: It is none, is damaged, or would run code.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(f"{str(path)!r} is no checkpoint of tensors, or was cut short; give one that fit has written")
    try:
        content = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except BROKEN_PICKLE as fault:
        told = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise UserError(f"{str(path)!r} is refused, since it is damaged or would run code: {told}") from fault
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} holds a {type(content).__name__}; give a checkpoint that fit has written")
    return content


def saved_callbacks(path: Path) -> Mapping[str, Any]:
    """Returns the state of the callbacks in a checkpoint, by their names.

    Raises:
        UserError: The checkpoint is damaged or would run code.
    """
    file = path / REST if path.is_dir() else path
    held = load_checkpoint_file(file).get("callbacks") if file.is_file() else None
    return held if isinstance(held, dict) else {}


def _progress(content: Mapping[str, Any]) -> dict[str, int]:
    told = {name: content.get(name) for name in ("global_step", "epoch")}
    return {name: value for name, value in told.items() if isinstance(value, int)}
