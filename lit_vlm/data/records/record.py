"""What a reader of files gives: records by index, each knowing where it stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_vlm.interfaces.errors import BadSampleError


@dataclass(frozen=True)
class Record:
    """One record as it stands in its file, before anything is made of it."""

    values: dict[str, Any]
    """Columns by name, as Python objects."""
    origin: str
    """``file, line 12`` or ``file, row 12``, counted from 1."""
    folder: Path
    """Folder of the file, from which paths in the record count."""
    media_folder: Path | None = None
    """Folder of the record's media, where the file that lists it says so."""


class RecordFile(ABC):
    """Records of one file, by index; safe to read from several forked or spawned processes at once."""

    path: Path

    @abstractmethod
    def __len__(self) -> int:
        """Counts the records."""

    @abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Reads one record.

        Raises:
            BadSampleError: It is broken.
            IndexError: There is no such record.
        """

    @abstractmethod
    def origin(self, index: int) -> str:
        """Says where a record stands, without reading it."""

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def scan(self) -> Iterator[Record | BadSampleError]:
        """Yields all records in order, and of a broken one its fault instead."""
        for index in range(len(self)):
            try:
                yield self[index]
            except BadSampleError as fault:
                yield fault

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(index)
