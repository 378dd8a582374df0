"""JSON Lines by byte offset: the index costs sixteen bytes a line, a record is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy

from lit_vlm.data.records.json_text import UTF8_MARK, parse_record, refuse_other_encodings
from lit_vlm.data.records.record import Record, RecordFile
from lit_vlm.interfaces.errors import BadSampleError

READ_AT_ONCE = 1 << 23  # bytes
LONGEST_RECORD = 1 << 26
"""Bytes of a line that is still read: 64 MiB."""
_BLANKS = b" \t\r\n\x0b\x0c"
_BLANK_BYTES = numpy.frombuffer(_BLANKS, numpy.uint8)
_LONGEST_BLANK = 4096  # bytes


class JsonLines(RecordFile):
    """One JSON object a line; blank lines, a byte-order mark and Windows line ends are tolerated.

    The file is read once, in blocks, to find the lines; none of them is parsed then.

    Args:
        path: The file.
        longest_record: Bytes of a line that is still read.

    Raises:
        UserError: The file is not UTF-8 by its first bytes.
    """

    def __init__(self, path: Path, *, longest_record: int = LONGEST_RECORD) -> None:
        self.path = path
        self.longest_record = longest_record
        self._starts, self._ends, lines = _filled_lines(path)
        # Line numbers are kept only where blank lines make them differ from the record's own.
        self._lines = None if len(lines) == 0 or int(lines[-1]) == len(lines) - 1 else lines

    def __len__(self) -> int:
        return len(self._starts)

    def origin(self, index: int) -> str:
        """Names the file and the line, counted from 1 with blank lines."""
        line = index if self._lines is None else int(self._lines[index])
        return f"{self.path}, line {line + 1}"

    def __getitem__(self, index: int) -> Record:
        self._check_index(index)
        # Opened anew each time: a handle shared with forked workers would share its position too.
        with self.path.open("rb") as file:
            return self._read(file, index)

    def scan(self) -> Iterator[Record | BadSampleError]:
        """Yields all records in order, and of a broken one its fault instead; opens the file once."""
        with self.path.open("rb") as file:
            for index in range(len(self)):
                try:
                    yield self._read(file, index)
                except BadSampleError as fault:
                    yield fault

    def _read(self, file: BinaryIO, index: int) -> Record:
        start, length = int(self._starts[index]), int(self._ends[index] - self._starts[index])
        origin = self.origin(index)
        if length > self.longest_record:
            reason = f"the line has {length:,} bytes, more than the {self.longest_record:,} allowed for a record"
            raise BadSampleError(origin, f"{reason}; is a line end missing? data.longest_record sets the limit")
        file.seek(start)
        data = file.read(length)
        return Record(parse_record(data.rstrip(_BLANKS), origin), origin, self.path.parent)


def _filled_lines(path: Path) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Finds the lines that hold more than white space.

    Returns:
        The first byte of each, the one after its last (the line's end included), and how many lines stand before it.
    """
    ends_found = []
    suspects_found = []
    position = first = 0
    at_line_start = True
    with path.open("rb") as file:
        while block := file.read(READ_AT_ONCE):
            if position == 0:
                refuse_other_encodings(block[:4], str(path))
                first = len(UTF8_MARK) if block.startswith(UTF8_MARK) else 0
            data = numpy.frombuffer(block, numpy.uint8)
            after_breaks = numpy.flatnonzero(data == ord("\n")) + 1
            ends_found.append(after_breaks + position)
            starts_here = after_breaks[after_breaks < len(data)]
            if at_line_start:
                starts_here = numpy.concatenate([[0], starts_here])
            # Only a line that begins with white space can be blank.
            suspects_found.append(starts_here[numpy.isin(data[starts_here], _BLANK_BYTES)] + position)
            at_line_start = block.endswith(b"\n")
            position += len(block)
    ends = numpy.concatenate([*ends_found, [position]]).astype(numpy.int64)
    starts = numpy.concatenate([[first], ends[:-1]]).astype(numpy.int64)
    is_filled = ends > starts
    suspects = numpy.concatenate([[first], *suspects_found]).astype(numpy.int64)
    _drop_blank(path, starts, ends, is_filled, numpy.searchsorted(starts, suspects))
    lines = numpy.flatnonzero(is_filled)
    return starts[lines], ends[lines], lines


def _drop_blank(
    path: Path, starts: numpy.ndarray, ends: numpy.ndarray, is_filled: numpy.ndarray, suspects: numpy.ndarray
) -> None:
    """Clears ``is_filled`` where a suspected line is blank; longer lines count as records, and broken ones."""
    with path.open("rb") as file:
        for line in suspects.tolist():
            length = int(ends[line] - starts[line])
            if length <= _LONGEST_BLANK:
                file.seek(int(starts[line]))
                is_filled[line] = bool(file.read(length).strip(_BLANKS))
