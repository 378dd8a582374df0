"""Reads the weights of a folder of safetensors files one at a time, whether they lie in one file or in many.

Bytes are read and not mapped: of what was read before, nothing stays in the memory of the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_vlm.interfaces.errors import UserError

INDEX = ".index.json"
HEADER_LENGTH = 8
"""Bytes that hold the length of a file's header."""
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types as the files name them."""
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the files of a folder."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    metadata: Mapping[str, str]
    """What the file says about itself."""


class SafetensorsFolder:
    """The tensors of ``STEM.safetensors``, or of the files that ``STEM.safetensors.index.json`` names.

    Args:
        folder: Where the files lie.
        stem: What their names begin with.
        label: What messages call the folder; by default its path.

    Raises:
        UserError: There is no such file, one is damaged, or the index and the files do not agree.
    """

    def __init__(self, folder: Path, stem: str = "model", label: str | None = None) -> None:
        self.folder = folder
        self.label = str(folder) if label is None else label
        self._tensors = self._find(stem)
        self._names = tuple(self._tensors)
        self._digests: dict[str, str] | None = None
        self._opened = 0
        self._file: _OpenFile | None = None

    @property
    def names(self) -> Sequence[str]:
        """Names of all tensors, in the order of the files and of what lies in them."""
        return self._names

    @property
    def files(self) -> Sequence[str]:
        """Names of the files, in order."""
        return list(dict.fromkeys(stored.file for stored in self._tensors.values()))

    def stored(self, name: str) -> StoredTensor:
        """Returns what is known of a tensor without reading it."""
        return self._tensors[name]

    def read(self, name: str) -> Tensor:
        """Reads one tensor, on the CPU, in the type it is stored in."""
        stored = self._tensors[name]
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        self._file_of(stored).read(stored.start, tensor)
        return tensor

    def pieces(self, name: str) -> Callable[[int, int], Tensor]:
        """Returns what reads any stretch ``(start, stop)`` of a flattened tensor, in whatever thread it is called.

        The system is told that the tensor will be wanted, and the file stays open as long as what is returned is kept.
        """
        stored = self._tensors[name]
        file = self._file_of(stored)
        width = stored.dtype.itemsize
        file.expect(stored.start, math.prod(stored.shape) * width)

        def piece(start: int, stop: int) -> Tensor:
            tensor = torch.empty(stop - start, dtype=stored.dtype)
            file.read(stored.start + start * width, tensor)
            return tensor

        return piece

    @contextmanager
    def opened(self) -> Iterator[SafetensorsFolder]:
        """Keeps the last file open over many reads; calls may be nested."""
        self._opened += 1
        try:
            yield self
        finally:
            self._opened -= 1
            if not self._opened:
                self._file = None

    def digests(self) -> Mapping[str, str]:
        """Hashes the files, once: name of the file -> SHA-256, hexadecimal."""
        if self._digests is None:
            self._digests = {}
            for name in self.files:
                with self._path(name).open("rb") as file:
                    self._digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests

    def _path(self, file: str) -> Path:
        return self.folder / file

    def _file_of(self, stored: StoredTensor) -> _OpenFile:
        path = self._path(stored.file)
        file = self._file
        if file is None or file.path != path:
            file = _OpenFile(path)
        if self._opened:
            self._file = file
        return file

    def _find(self, stem: str) -> dict[str, StoredTensor]:
        single, index = f"{stem}.safetensors", f"{stem}.safetensors{INDEX}"
        if self._path(single).is_file():
            return stored_tensors(self._path(single))
        if not self._path(index).is_file():
            raise UserError(self._nothing_found(stem))
        listed = _read_index(self._path(index))
        found: dict[str, StoredTensor] = {}
        for file in sorted(set(listed.values())):
            if not self._path(file).is_file():
                raise UserError(
                    f"{self._path(index)} names {file!r}, which is not there; fetch the whole checkpoint again"
                )
            for name, stored in stored_tensors(self._path(file)).items():
                if name in found:
                    raise UserError(
                        f"{self.label}: {found[name].file} and {file} both hold the weight {name!r}; remove the file "
                        "that does not belong to the checkpoint, or save it anew with save_pretrained"
                    )
                found[name] = stored
        for name, file in listed.items():
            if name not in found or found[name].file != file:
                raise UserError(
                    f"{self._path(index)} says that {file!r} holds the weight {name!r}, and it does not; fetch the "
                    "whole checkpoint again"
                )
        return found

    def _nothing_found(self, stem: str) -> str:
        others = sorted(path.name for pattern in OTHER_FORMATS for path in self.folder.glob(pattern))
        wanted = f"{self.label} holds neither {stem}.safetensors nor {stem}.safetensors{INDEX}"
        if others:
            return (
                f"{wanted}, but {others[0]}; weights are read from safetensors only: convert it first, by loading the "
                "model where you trust the file and calling save_pretrained"
            )
        return f"{wanted}; give the folder of a checkpoint whose weights are safetensors"


class _OpenFile:
    """A file that is open as long as something refers to it; several threads may read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def expect(self, start: int, count: int) -> None:
        """Lets the system fetch bytes before they are read, where it can."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, start, count, os.POSIX_FADV_WILLNEED)

    def read(self, start: int, into: Tensor) -> None:
        """Fills a tensor with the bytes from ``start`` on."""
        content: Any = into.reshape(-1).view(torch.uint8).numpy()
        done = 0
        # The system reads 2 GiB at a time at most.
        while done < content.nbytes:
            count = os.preadv(self._descriptor, [content[done:]], start + done)
            if not count:
                raise UserError(f"{self.path} was cut short while it was read; fetch it again")
            done += count


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a safetensors file, in their order in the file; only its header is read.

    Raises:
        UserError: The file is damaged, or holds numbers of a type that torch does not have.
    """
    try:
        with safe_open(path, framework="pt"):
            pass  # the library compares header and size, so that what follows may trust the header
    except SafetensorError as fault:
        raise UserError(f"{path} is damaged or cut short: {fault}; fetch it again") from fault
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    metadata: dict[str, str] = header.pop("__metadata__", {})
    found: dict[str, StoredTensor] = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        if entry["dtype"] not in TYPES:
            known = ", ".join(TYPES)
            raise UserError(f"{path}: the weight {name!r} is of type {entry['dtype']}; known are {known}")
        start = HEADER_LENGTH + length + entry["data_offsets"][0]
        found[name] = StoredTensor(path.name, TYPES[entry["dtype"]], tuple(entry["shape"]), start, metadata)
    return found


def _read_index(path: Path) -> dict[str, str]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise UserError(f"{path} names {name!r} twice; save the checkpoint anew with save_pretrained")
            found[name] = value
        return found

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_repeats)
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise UserError(f"{path} is no JSON: {fault}; fetch it again") from fault
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise UserError(f"{path} has no weight_map from names of weights to files; fetch it again")
    for file in listed.values():
        if Path(file).name != file:
            raise UserError(f"{path} names {file!r}; the files of a checkpoint lie beside its index")
    return listed


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one safetensors file, whole or not at all; tensors are copied to the CPU first."""
    partial = path.with_name(f".{path.name}.partial")
    # A copy of each: the format refuses tensors that share their memory.
    save_file({name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)
