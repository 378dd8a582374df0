"""Finds the files that a setting names, and reads them as one sequence of records."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy
from torch.utils.data import Dataset

from lit_vlm.data.records.columnar_files import ParquetFile, SavedDataset
from lit_vlm.data.records.json_file import JsonFile
from lit_vlm.data.records.json_lines import LONGEST_RECORD, JsonLines
from lit_vlm.data.records.record import Record, RecordFile
from lit_vlm.interfaces.errors import BadSampleError, UserError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z")
_SPLIT_NAME = re.compile(r"(train|training|val|valid|validation|dev|test)(?![a-z])", re.IGNORECASE)


class RecordFiles(Dataset[Record]):
    """The records of several files, one file after the other.

    Args:
        files: The files, at least one.
    """

    def __init__(self, files: Sequence[RecordFile]) -> None:
        self.files = tuple(files)
        self._ends = numpy.cumsum([len(file) for file in self.files])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        file, within = self._place(index)
        return file[within]

    def __iter__(self) -> Iterator[Record]:
        return (record for file in self.files for record in file)

    def scan(self) -> Iterator[Record | BadSampleError]:
        """Yields all records in order, and of a broken one its fault instead."""
        return (found for file in self.files for found in file.scan())

    def origin(self, index: int) -> str:
        """Says where a record stands, without reading it."""
        file, within = self._place(index)
        return file.origin(within)

    @property
    def name(self) -> str:
        """The file, or the number of files."""
        return str(self.files[0].path) if len(self.files) == 1 else f"{len(self.files)} files"

    def _place(self, index: int) -> tuple[RecordFile, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        position = int(numpy.searchsorted(self._ends, index, side="right"))
        return self.files[position], index - (int(self._ends[position - 1]) if position else 0)


def open_records(
    names: str | Sequence[str],
    option: str,
    *,
    longest_record: int = LONGEST_RECORD,
    opener: Callable[[Path, int], RecordFile] | None = None,
) -> RecordFiles:
    """Opens what a setting names.

    Args:
        names: A file, a folder of files, a pattern such as ``data/*.jsonl``, a folder written by ``save_to_disk``, or
            a list of these.
        option: The setting's name, for messages.
        longest_record: Bytes of a JSON record that is still read; rows of other files have four times as many.
        opener: Opens one file; None for ``open_file``.

    Raises:
        UserError: Nothing is there, it is no file of records, or there are no records in it.
    """
    given = [names] if isinstance(names, str) else list(names)
    if not given:
        raise UserError(f"{option} is an empty list; name at least one file")
    paths = [path for name in given for path in find_files(name, option)]
    repeated = sorted({str(path) for path in paths if paths.count(path) > 1})
    if repeated:
        raise UserError(f"{option} names {repeated[0]} twice")
    records = RecordFiles([(opener or open_file)(path, longest_record) for path in paths])
    if len(records) == 0:
        raise UserError(f"{option}: there are no records in {records.name}")
    return records


def find_files(name: str, option: str) -> list[Path]:
    """Lists the files of records that one name stands for, in order.

    Raises:
        UserError: There is none, or a folder holds files of several kinds or splits.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        return [path] if SavedDataset.is_saved_dataset(path) else _files_within(path, option)
    if any(character in name for character in "*?["):
        found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not found:
            raise UserError(f"{option}: no file matches {name!r}")
        return found
    raise UserError(f"{option}: there is no file or folder {name!r}")


def _files_within(folder: Path, option: str) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{option}: the folder {str(folder)!r} holds no file named {' or '.join(SUFFIXES)}")
    kinds = sorted({path.suffix.lower() for path in found})
    if len(kinds) > 1:
        found_kinds = " and ".join(kinds)
        raise UserError(f"{option}: the folder {str(folder)!r} holds {found_kinds} files; name one kind, as *.jsonl")
    splits = {match[1].lower() for path in found if (match := _SPLIT_NAME.match(path.name))}
    if len(splits) > 1:
        raise UserError(
            f"{option}: the folder {str(folder)!r} holds files of several splits, {', '.join(sorted(splits))}; name "
            f"one, as {folder.name}/{min(splits)}*"
        )
    return found


def open_file(path: Path, longest_record: int = LONGEST_RECORD) -> RecordFile:
    """Opens one file of records, or a saved data set, by the ending of its name.

    Raises:
        UserError: It is no such file, or is broken.
    """
    if path.is_dir():
        return SavedDataset(path, longest_record=longest_record)
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return JsonLines(path, longest_record=longest_record)
        case ".json":
            kind: Callable[..., RecordFile] = JsonLines if holds_lines(path, longest_record) else JsonFile
            return kind(path, longest_record=longest_record)
        case ".parquet":
            return ParquetFile(path, longest_record=longest_record)
        case suffix:
            mend = "unpack it first" if suffix in _PACKED else f"save it as one of {', '.join(SUFFIXES)}"
            raise UserError(
                f"{path}: files {f'named {suffix}' if suffix else 'without an ending'} are not read; {mend}"
            )


def holds_lines(path: Path, longest: int = LONGEST_RECORD) -> bool:
    """Tells whether a file named ``.json`` holds an object a line: its first line ends one, and another begins."""
    with path.open("rb") as file:
        first, second = (_next_filled(file.readline, longest) for _ in range(2))
    return first.removeprefix(b"\xef\xbb\xbf").startswith(b"{") and first.endswith(b"}") and second.startswith(b"{")


def _next_filled(read_line: Callable[[int], bytes], longest: int) -> bytes:
    while line := read_line(longest):
        if line.strip():
            return line.strip()
    return b""
