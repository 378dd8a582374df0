"""Parquet files and folders written by ``datasets.save_to_disk``, a row at a time.

Rows become Python objects one by one; images stored as ``{bytes, path}`` stay encoded bytes.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from lit_vlm.data.records.json_lines import LONGEST_RECORD
from lit_vlm.data.records.record import Record, RecordFile
from lit_vlm.interfaces.errors import BadSampleError, UserError

SCANNED = 64
"""Rows that are Python objects at one time while all are read."""
CACHED_BYTES = 1 << 28
"""Decoded row groups that a process keeps over all its files, 256 MiB; one is kept whatever its size."""
ROW_SHARE = 4
"""How many times the bytes of a JSON record a row may have, since it may hold the images that a record names."""
LARGE_GROUP = 1 << 27
"""Uncompressed bytes of a row group from which random access is slow: each row decodes 128 MiB."""

logger = logging.getLogger(__name__)


class ColumnarFile(RecordFile):
    """Rows that lie in groups, each decoded as a whole.

    Args:
        path: File or folder.
        sizes: Rows of each group.
        longest_record: Bytes of a JSON record that is still read; a row may hold ``ROW_SHARE`` times as many.
    """

    def __init__(self, path: Path, sizes: Sequence[int], longest_record: int = LONGEST_RECORD) -> None:
        self.path = path
        self._largest_row = ROW_SHARE * longest_record
        self._ends = numpy.cumsum(numpy.array(sizes, numpy.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def origin(self, index: int) -> str:
        """Names the file and the row, counted from 1."""
        return f"{self.path}, row {index + 1}"

    def __getitem__(self, index: int) -> Record:
        self._check_index(index)
        group = int(numpy.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        return self._record(self._group(group).slice(index - first, 1), index)

    def scan(self) -> Iterator[Record | BadSampleError]:
        """Yields all rows in order, ``SCANNED`` of them as Python objects at one time."""
        folder = self.path if self.path.is_dir() else self.path.parent
        index = 0
        for number in range(len(self._ends)):
            group = self._group(number)
            for start in range(0, group.num_rows, SCANNED):
                some = group.slice(start, SCANNED)
                if some.nbytes <= self._largest_row:
                    for row in some.to_pylist():
                        yield Record(row, self.origin(index), folder)
                        index += 1
                    continue
                for place in range(some.num_rows):
                    try:
                        yield self._record(some.slice(place, 1), index)
                    except BadSampleError as fault:
                        yield fault
                    index += 1

    def _record(self, row: pyarrow.Table | pyarrow.RecordBatch, index: int) -> Record:
        """Makes Python objects of a row, unless it is too large."""
        if row.nbytes > self._largest_row:
            reason = f"the row has {row.nbytes:,} bytes, more than the {self._largest_row:,} allowed"
            raise BadSampleError(self.origin(index), f"{reason}; make it smaller, or raise data.longest_record")
        (value,) = row.to_pylist()
        return Record(value, self.origin(index), self.path if self.path.is_dir() else self.path.parent)

    @abstractmethod
    def _group(self, group: int) -> pyarrow.Table | pyarrow.RecordBatch:
        """Decodes one group."""


class ParquetFile(ColumnarFile):
    """A Parquet file; each row decodes its row group, of which each process keeps the last, over all its files.

    Raises:
        UserError: It is no Parquet file.
    """

    def __init__(self, path: Path, *, longest_record: int = LONGEST_RECORD) -> None:
        with _opened(path) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        largest = max((group.total_byte_size for group in groups), default=0)
        if largest > LARGE_GROUP and len(groups) * largest > CACHED_BYTES:
            logger.warning(
                "%s has row groups of up to %s MiB, and reading any row decodes its group; write it with row groups of "
                "about a hundred rows for fast random access",
                path,
                f"{largest / 2**20:,.0f}",
            )
        super().__init__(path, [group.num_rows for group in groups], longest_record)

    def _group(self, group: int) -> pyarrow.Table:
        key = (str(self.path), group)
        if key not in _cached_groups:
            # Opened anew each time: thousands of files would use up the handles, and a fork would share their position.
            with _opened(self.path) as file:
                try:
                    _cached_groups[key] = file.read_row_group(group, use_threads=False)
                except (pyarrow.ArrowException, OSError) as fault:
                    raise UserError(f"{self.path}: row group {group + 1} cannot be read: {fault}") from fault
            while len(_cached_groups) > 1 and sum(table.nbytes for table in _cached_groups.values()) > CACHED_BYTES:
                _cached_groups.popitem(last=False)
        _cached_groups.move_to_end(key)
        return _cached_groups[key]


_cached_groups: OrderedDict[tuple[str, int], pyarrow.Table] = OrderedDict()


def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as fault:
        raise UserError(f"{path} is no readable Parquet file: {fault}") from fault


class SavedDataset(ColumnarFile):
    """A folder written by ``Dataset.save_to_disk``; its Arrow files are mapped, not loaded.

    Raises:
        UserError: A file is missing or broken, or the folder holds several splits.
    """

    def __init__(self, path: Path, *, longest_record: int = LONGEST_RECORD) -> None:
        self._batches: list[pyarrow.RecordBatch] | None = _mapped_batches(path)
        super().__init__(path, [batch.num_rows for batch in self._batches], longest_record)

    def __getstate__(self) -> dict[str, Any]:
        # Batches would be pickled with their contents; the files are mapped again instead.
        return {**self.__dict__, "_batches": None}

    @staticmethod
    def is_saved_dataset(folder: Path) -> bool:
        """Tells whether a folder was written by ``save_to_disk``, with one split or several."""
        return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()

    def _group(self, group: int) -> pyarrow.RecordBatch:
        if self._batches is None:
            self._batches = _mapped_batches(self.path)
        return self._batches[group]


def _mapped_batches(folder: Path) -> list[pyarrow.RecordBatch]:
    if not (folder / "state.json").is_file():
        splits = _read_json(folder / "dataset_dict.json").get("splits", [])
        raise UserError(f"{folder} holds the splits {splits}; name one of them, e.g. {folder}/{''.join(splits[:1])}")
    batches: list[pyarrow.RecordBatch] = []
    description = folder / "state.json"
    entries = _read_json(description).get("_data_files")
    named = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or []]
    names = [name for name in named if isinstance(name, str)]
    if not names or len(names) < len(named):
        raise UserError(f"{description} names no Arrow files; is it from save_to_disk? Write the data set again")
    for name in names:
        file = folder / name
        if file.resolve().parent != folder.resolve():
            raise UserError(f"{folder / 'state.json'} names a file outside its folder: {str(file)!r}")
        try:
            batches.extend(pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))))
        except (pyarrow.ArrowException, OSError) as fault:
            raise UserError(f"{file} is no readable Arrow file: {fault}") from fault
    return batches


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} is no readable description of a saved data set: {fault}") from fault
    if not isinstance(value, dict):
        raise UserError(f"{path} is no description of a saved data set")
    return value
