"""Weights that are read straight from a folder of safetensors files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lit_vlm.functional.safetensors_folder import SafetensorsFolder
from lit_vlm.interfaces.weights import TensorSource


class SafetensorsSource(TensorSource):
    """The tensors of a folder as its files hold them; what the folder is, a subclass says.

    Args:
        folder: Where the files lie.
        stem: What their names begin with.

    Raises:
        UserError: There are none, or they are damaged.
    """

    def __init__(self, folder: Path, stem: str = "model") -> None:
        self._folder = folder
        self._files = SafetensorsFolder(folder, stem=stem)

    @property
    def folder(self) -> Path:
        """The folder on this machine."""
        return self._folder

    @property
    def names(self) -> Sequence[str]:
        """Names of all tensors, in the order of the files."""
        return self._files.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape, without reading it."""
        return self._files.stored(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Returns the type a tensor is stored in, without reading it."""
        return self._files.stored(name).dtype

    def read(self, name: str) -> Tensor:
        """Reads one tensor, on the CPU, in the type it is stored in."""
        return self._files.read(name)

    def pieces(self, name: str) -> Callable[[int, int], Tensor]:
        """Returns what reads any stretch of one flattened tensor, in the type it is stored in."""
        return self._files.pieces(name)

    def digests(self) -> Mapping[str, str]:
        """Hashes the files, once: name of the file -> SHA-256, hexadecimal."""
        return self._files.digests()

    @contextmanager
    def opened(self) -> Iterator[TensorSource]:
        """Keeps the file that was read last open over many reads."""
        with self._files.opened():
            yield self
