"""Writes a checkpoint of safetensors files tensor by tensor: never more than one in memory, whatever the shards' size.

What will be written is known before, so that each file's header comes first and every tensor goes straight to its
place. The folder appears complete or not at all, and a writer that was stopped goes on where it was.

Format: https://github.com/huggingface/safetensors, section Format.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from lit_vlm.functional.safetensors_folder import HEADER_LENGTH, INDEX, TYPES
from lit_vlm.interfaces.errors import UserError

STATE = "shard_writer.json"
UNFINISHED = ".unfinished"
TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor before it is there."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_size(text: str | int, option: str = "largest_shard") -> int:
    """Reads a size such as ``5GB`` (decimal), ``512MiB`` (binary) or ``1000000`` as bytes.

    Args:
        text: The size.
        option: What messages call it.

    Raises:
        UserError: It is no size, or below one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if match is None or match[2].upper() not in UNITS:
        raise UserError(f"{option} is {text!r}; give a size such as 5GB, 500MB or 2GiB")
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if size < 1:
        raise UserError(f"{option} is {text!r}; give at least one byte, such as 5GB")
    return size


def plan_shards(tensors: Sequence[TensorSpec], largest_shard: int) -> list[list[TensorSpec]]:
    """Divides tensors into files, in their order; one larger than ``largest_shard`` bytes has a file for itself."""
    shards: list[list[TensorSpec]] = []
    filled = 0
    for tensor in tensors:
        if not shards or filled + tensor.size > largest_shard:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    return shards


class ShardWriter:
    """Fills a folder with the tensors of a plan, in its order.

    Everything is written into ``.NAME.partial`` beside the folder, which gets its name in ``finish``. A new writer for
    the same folder with the same plan and fingerprint takes over the shards that are complete; with others it removes
    them and starts anew.

    Args:
        output: The folder; absent or empty.
        tensors: What will be written, in order; no name twice.
        largest_shard: Bytes of a file at most, where more than one tensor lies in it.
        fingerprint: Tells what the numbers come from; where it is the same, complete shards are believed.
        stem: What the names of the files begin with.

    Raises:
        UserError: The folder holds something, or there is no room on the disk.
        ValueError: The plan is empty, names a tensor twice or has a type that files cannot hold.

    Example:
        with ShardWriter(output, tensors, parse_size("5GB"), fingerprint) as writer:
            for spec in writer.unwritten():
                writer.write(spec.name, compute(spec))
            writer.finish(copy_tokenizer)
    """

    def __init__(
        self, output: Path, tensors: Sequence[TensorSpec], largest_shard: int, fingerprint: str, stem: str = "model"
    ) -> None:
        _check(tensors)
        check_output(output)
        self.output = output
        self.partial = output.parent / f".{output.name}.partial"
        self._shards = plan_shards(tensors, largest_shard)
        self._stem = stem
        self._state = json.dumps({"fingerprint": fingerprint, "plan": _plan_digest(self._shards, stem)})
        self._file: BinaryIO | None = None
        self._starts: dict[str, int] = {}
        self._shard = 0
        """The shard that ``_due`` belongs to."""
        self._due: list[TensorSpec] = []
        """What is still to come of that shard."""
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def unwritten(self) -> list[TensorSpec]:
        """Lists the tensors that are not yet written, in the order in which they are due."""
        later = (
            tensor
            for index in range(self._shard + 1, len(self._shards))
            if not self._path(index).exists()
            for tensor in self._shards[index]
        )
        return [*self._due, *later]

    def write(self, name: str, tensor: Tensor) -> None:
        """Writes the next tensor to its place; nothing of it is kept.

        Args:
            name: Which it is.
            tensor: On any device; it need not be contiguous.

        Raises:
            ValueError: Another one is due, or its type or shape is not the planned one.
        """
        if self._shard == len(self._shards):
            raise ValueError(f"{name!r} comes after the last planned tensor")
        due = self._due[0]
        if (name, tensor.dtype, tuple(tensor.shape)) != (due.name, due.dtype, due.shape):
            raise ValueError(
                f"due is {due.name!r} of type {due.dtype} and shape {due.shape}, given is {name!r} of type "
                f"{tensor.dtype} and shape {tuple(tensor.shape)}"
            )
        file = self._file or self._open()
        file.seek(self._starts[name])
        content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        file.write(content)
        self._due.pop(0)
        if not self._due:
            self._complete()

    def finish(self, extra_files: Callable[[Path], None] | None = None) -> None:
        """Writes the index, lets further files be added, and gives the folder its name.

        Args:
            extra_files: Called with the folder as it lies beside its final place; puts configuration, tokenizer and the
                like into it. Where it raises, a later writer goes on from there.

        Raises:
            ValueError: Tensors are missing.
        """
        if self._shard < len(self._shards):
            raise ValueError(f"{self._due[0].name!r} and what follows is not yet written")
        if len(self._shards) > 1:
            places = {tensor.name: self._name(index) for index, shard in enumerate(self._shards) for tensor in shard}
            size = sum(tensor.size for shard in self._shards for tensor in shard)
            content = {"metadata": {"total_size": size}, "weight_map": places}
            path = self.partial / f"{self._stem}.safetensors{INDEX}"
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if extra_files is not None:
            extra_files(self.partial)
        for path in self.partial.iterdir():
            sync_to_disk(path)
        (self.partial / STATE).unlink()
        sync_to_disk(self.partial)
        self.partial.rename(self.output)
        sync_to_disk(self.output.parent)

    def _begin(self) -> None:
        state = self.partial / STATE
        if not (state.is_file() and state.read_text(encoding="utf-8") == self._state):
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            state.write_text(self._state, encoding="utf-8")
        self._shard = -1
        self._advance()
        missing = [index for index in range(len(self._shards)) if not self._path(index).exists()]
        needed = sum(tensor.size for index in missing for tensor in self._shards[index])
        free = shutil.disk_usage(self.partial).free
        if needed > free:
            raise UserError(
                f"{str(self.output)!r} needs {needed / 1e9:.1f} GB more, and the disk has {free / 1e9:.1f} GB left; "
                "free some or give a folder on another disk"
            )

    def _advance(self) -> None:
        """Goes to the next shard that is not complete."""
        self._shard += 1
        while self._shard < len(self._shards) and self._path(self._shard).exists():
            self._shard += 1
        self._due = list(self._shards[self._shard]) if self._shard < len(self._shards) else []

    def _name(self, index: int) -> str:
        if len(self._shards) == 1:
            return f"{self._stem}.safetensors"
        return f"{self._stem}-{index + 1:05}-of-{len(self._shards):05}.safetensors"

    def _path(self, index: int) -> Path:
        return self.partial / self._name(index)

    def _unfinished(self) -> Path:
        return self.partial / (self._name(self._shard) + UNFINISHED)

    def _open(self) -> BinaryIO:
        header, self._starts = _header(self._shards[self._shard])
        self._file = self._unfinished().open("wb")
        self._file.write(header)
        return self._file

    def _complete(self) -> None:
        self._close()
        sync_to_disk(self._unfinished())
        self._unfinished().rename(self._path(self._shard))
        self._advance()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def check_output(output: Path) -> None:
    """Refuses a place that holds something already.

    Raises:
        UserError: It does.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{str(output)!r} exists and is not empty; give another folder or move it away")


def _check(tensors: Sequence[TensorSpec]) -> None:
    if not tensors:
        raise ValueError("there is nothing to write")
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise ValueError(f"{tensor.name!r} is planned twice")
        if tensor.dtype not in TYPE_NAMES:
            raise ValueError(f"{tensor.name!r} is of type {tensor.dtype}, which safetensors files do not hold")
        seen.add(tensor.name)


def _header(shard: Sequence[TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """Describes a file: returns what it begins with, and the first byte of each tensor."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    offsets: dict[str, int] = {}
    # Wide types first: so every number lies at a multiple of its size, which readers count on.
    for tensor in sorted(shard, key=lambda tensor: -tensor.dtype.itemsize):
        offsets[tensor.name] = position
        end = position + tensor.size
        entries[tensor.name] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    described = json.dumps(entries, separators=(",", ":")).encode()
    described += b" " * (-len(described) % HEADER_LENGTH)
    begin = HEADER_LENGTH + len(described)
    return len(described).to_bytes(HEADER_LENGTH, "little") + described, {
        name: begin + offset for name, offset in offsets.items()
    }


def _plan_digest(shards: Sequence[Sequence[TensorSpec]], stem: str) -> str:
    told = [stem, [[(tensor.name, str(tensor.dtype), tensor.shape) for tensor in shard] for shard in shards]]
    return sha256(json.dumps(told).encode()).hexdigest()


def sync_to_disk(path: Path) -> None:
    """Waits until a file or the list of a folder's files is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
