"""MMPR's mixtures: a JSON object that names files of records, the folders of their media, and how often each counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy

from lit_vlm.data.records.json_lines import LONGEST_RECORD
from lit_vlm.data.records.json_text import parse_record
from lit_vlm.data.records.preference_conventions import MIXTURE_ENTRY
from lit_vlm.data.records.record import Record, RecordFile
from lit_vlm.data.records.record_files import open_file
from lit_vlm.functional.distributions import spread_evenly
from lit_vlm.interfaces.errors import BadSampleError, UserError

MOST_REPEATED = 1000


class RecordMixture(RecordFile):
    """The records of ``{"<name>": {"root": …, "annotation": …, "repeat_time": 1}, …}``, one entry after the other.

    A ``repeat_time`` above 1 repeats the entry's records, of which its fraction takes a part; one below 1 takes that
    share of them, evenly spaced. Media paths count from the entry's root, and the entry's name is a column.

    Args:
        path: The file.
        folder: Folder from which roots and annotations count and which they may not leave; None for that of the file
            or the one above it.
        longest_record: Bytes of a record that is still read.

    Raises:
        UserError: The file is broken, or an entry names what is not there or no number of times.
    """

    def __init__(self, path: Path, *, folder: Path | None = None, longest_record: int = LONGEST_RECORD) -> None:
        self.path = path
        # Published paths begin with the folder of the file itself or lie beside it.
        self._folders = [folder] if folder is not None else [path.parent, path.absolute().parent.parent]
        self._names: list[str] = []
        self._files: list[RecordFile] = []
        self._roots: list[Path] = []
        entries, records = [], []
        try:
            mixture = parse_record(path.read_bytes(), str(path))
        except BadSampleError as fault:
            raise UserError(str(fault)) from fault
        for name, entry in mixture.items():
            if not is_entry(entry):
                raise UserError(
                    f"{path}: the entry {name!r} needs a root and an annotation, texts that name a folder and a file"
                )
            file = open_file(self._located(entry["annotation"], name, "annotation"), longest_record)
            taken = _taken(len(file), entry.get("repeat_time", 1), f"{path}: the entry {name!r}")
            entries.append(numpy.full(len(taken), len(self._files), dtype=numpy.int32))
            records.append(taken)
            self._names.append(name)
            self._files.append(file)
            self._roots.append(self._located(entry["root"], name, "root"))
        self._entries = numpy.concatenate(entries) if entries else numpy.zeros(0, dtype=numpy.int32)
        self._records = numpy.concatenate(records) if records else numpy.zeros(0, dtype=numpy.int64)

    def __len__(self) -> int:
        return len(self._records)

    def origin(self, index: int) -> str:
        """Names the file of the entry and the place in it."""
        return self._files[int(self._entries[index])].origin(int(self._records[index]))

    def __getitem__(self, index: int) -> Record:
        self._check_index(index)
        entry = int(self._entries[index])
        record = self._files[entry][int(self._records[index])]
        values = {**record.values, MIXTURE_ENTRY: self._names[entry]}
        return replace(record, values=values, media_folder=self._roots[entry])

    def _located(self, given: str, name: str, what: str) -> Path:
        for folder in self._folders:
            place = folder / given
            if not place.resolve().is_relative_to(folder.resolve()):
                continue
            if place.is_file() if what == "annotation" else place.is_dir():
                return place
        sought = " or ".join(repr(str(folder)) for folder in self._folders)
        raise UserError(
            f"{self.path}: the {what} {given!r} of the entry {name!r} is not in {sought}; correct it, or set "
            "data.media_root to the folder that such paths begin in"
        )


def is_entry(value: Any) -> bool:
    """Tells whether a value is an entry of a mixture."""
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("root", "annotation"))


def _taken(count: int, times: Any, where: str) -> numpy.ndarray:
    """The records that an entry stands for, by index."""
    is_number = isinstance(times, (int, float)) and not isinstance(times, bool)
    if not is_number or not math.isfinite(times) or not 0 <= times <= MOST_REPEATED:
        raise UserError(f"{where} has the repeat_time {times!r}; give a number from 0 to {MOST_REPEATED:,}")
    whole, part = divmod(times, 1)
    share = spread_evenly(count, round(part * count))
    return numpy.concatenate([*[numpy.arange(count)] * int(whole), numpy.array(share, numpy.int64)]).astype(numpy.int64)
