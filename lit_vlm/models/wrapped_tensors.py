"""Weights that are another source's, but for some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_vlm.interfaces.weights import TensorSource


class WrappedTensors(TensorSource):
    """Passes everything on to another source; what differs is overridden.

    Args:
        inner: The other source.
    """

    def __init__(self, inner: TensorSource) -> None:
        self.inner = inner

    @property
    def label(self) -> str:
        """What messages and reports call it."""
        return self.inner.label

    @property
    def folder(self) -> Path:
        """The other source's folder."""
        return self.inner.folder

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What the other source's ``config.json`` says."""
        return self.inner.configuration

    @property
    def names(self) -> Sequence[str]:
        """Names of all weights."""
        return self.inner.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a weight's shape."""
        return self.inner.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Returns the type a weight is stored in, or stands for."""
        return self.inner.dtype(name)

    def read(self, name: str) -> Tensor:
        """Reads one weight."""
        return self.inner.read(name)

    def vocabulary(self) -> Mapping[str, int]:
        """Returns the other source's tokens."""
        return self.inner.vocabulary()

    def digests(self) -> Mapping[str, str]:
        """Hashes the files of the other source."""
        return self.inner.digests()

    @contextmanager
    def opened(self) -> Iterator[TensorSource]:
        """Keeps files open over many reads."""
        with self.inner.opened():
            yield self
