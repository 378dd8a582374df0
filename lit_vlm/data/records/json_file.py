"""One JSON file that holds a list of records: an array, or an object with one list of objects in it.

The file is walked once with the ``json`` module, a record at a time, and only its byte offsets are kept: neither the
text nor the records stay in memory, and workers read a record when it is asked for.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from lit_vlm.data.records.json_lines import LONGEST_RECORD
from lit_vlm.data.records.json_text import json_reason, kind_of, parse_record, refuse_other_encodings
from lit_vlm.data.records.record import Record, RecordFile
from lit_vlm.interfaces.errors import UserError

READ_AT_ONCE = 1 << 20  # bytes
_BLANKS = re.compile(r"[ \t\r\n]*")
_MARGIN = 100
"""Characters before the end of what was read, in which a fault may just be the cut."""


class JsonFile(RecordFile):
    """Records of a JSON array, or of the one list of objects in a JSON object, e.g. ``{"data": [{…}, …]}``.

    Args:
        path: The file.
        longest_record: Bytes of a record that is still read.

    Raises:
        UserError: The file is broken, holds no list of records or several, or an endless one.
    """

    def __init__(self, path: Path, *, longest_record: int = LONGEST_RECORD) -> None:
        self.path = path
        with JsonWalk(path, longest_record) as walk:
            spans = list(_record_spans(walk))
        self._starts, self._ends, self._lines = numpy.array(spans, numpy.int64).reshape(-1, 3).T

    def __len__(self) -> int:
        return len(self._starts)

    def origin(self, index: int) -> str:
        """Names the file and the line at which the record begins, or its number where lines hold several."""
        same_line = len(self) > 1 and int(self._lines[0]) == int(self._lines[-1])
        return f"{self.path}, record {index + 1}" if same_line else f"{self.path}, line {int(self._lines[index])}"

    def __getitem__(self, index: int) -> Record:
        self._check_index(index)
        with self.path.open("rb") as file:
            file.seek(int(self._starts[index]))
            data = file.read(int(self._ends[index] - self._starts[index]))
        origin = self.origin(index)
        return Record(parse_record(data, origin), origin, self.path.parent)


class JsonWalk:
    """Steps through the text of a JSON file, value by value, with a bounded piece of it in memory.

    Args:
        path: The file.
        longest: Characters of a value that is still read.

    Raises:
        UserError: The file is not UTF-8; so do the methods, also where the JSON is broken.
    """

    def __init__(self, path: Path, longest: int) -> None:
        self.path = path
        self.longest = longest
        self._file = path.open("rb")
        start = self._file.read(4)
        refuse_other_encodings(start, str(path))
        self.byte = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        self._file.seek(self.byte)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False
        self.line = 1
        self._column = 0  # characters of the line already passed

    def __enter__(self) -> JsonWalk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def peek(self) -> str:
        """Returns the next character that is no white space, empty at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._pass(blanks.end() - self._at if blanks else 0)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more(READ_AT_ONCE):
                return ""

    def take(self, wanted: str) -> str:
        """Passes one of the wanted characters."""
        found = self.peek()
        if not found or found not in wanted:
            expected = " or ".join(repr(character) for character in wanted)
            raise self.fault(f"expected {expected}, found {repr(found) if found else 'the end of the file'}")
        self._pass(1)
        return found

    def value(self) -> tuple[Any, int, int, int]:
        """Passes one value; returns it with its first byte, the one after its last, and its line."""
        self.peek()
        size = READ_AT_ONCE
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    break
            except json.JSONDecodeError as fault:
                is_cut = fault.pos > len(self._text) - _MARGIN or fault.msg.startswith("Unterminated string")
                if self._ended or not is_cut:
                    raise self._located(fault) from fault
            except RecursionError as fault:
                raise self.fault("the JSON is nested too deeply") from fault
            if len(self._text) - self._at > self.longest:
                raise self.fault(
                    f"a record begins here that is broken, or has more than the {self.longest:,} characters allowed"
                )
            self._read_more(size)
            size *= 2
        start, line = self.byte, self.line
        self._pass(end - self._at)
        return value, start, self.byte, line

    def fault(self, reason: str) -> UserError:
        """Says what is wrong at this place."""
        return UserError(f"{self.path}, line {self.line}: {reason}")

    def _located(self, fault: json.JSONDecodeError) -> UserError:
        passed = self._text[self._at : fault.pos]
        line = self.line + passed.count("\n")
        column = 1 + (len(passed) - passed.rfind("\n") - 1 if "\n" in passed else self._column + len(passed))
        return UserError(f"{self.path}, line {line}, column {column}: {json_reason(fault)}")

    def _pass(self, characters: int) -> None:
        passed = self._text[self._at : self._at + characters]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self.line += passed.count("\n")
        self._column = len(passed) - passed.rfind("\n") - 1 if "\n" in passed else self._column + len(passed)
        self._at += characters

    def _read_more(self, size: int) -> bool:
        data = self._file.read(size)
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as fault:
            raise UserError(f"{self.path}: {fault.reason} near byte {self._file.tell():,}; save it as UTF-8") from fault
        self._text = self._text[self._at :] + text
        self._at = 0
        return not self._ended


def first_member(path: Path, *, longest: int = LONGEST_RECORD) -> Any:
    """Reads the first value of a JSON object, where that value is an object too; None in all other files.

    Raises:
        UserError: The file is broken there.
    """
    with JsonWalk(path, longest) as walk:
        if walk.peek() != "{":
            return None
        walk.take("{")
        if walk.peek() != '"':
            return None
        walk.value()
        walk.take(":")
        return walk.value()[0] if walk.peek() == "{" else None


def _record_spans(walk: JsonWalk) -> Iterator[tuple[int, int, int]]:
    """Yields first byte, end and line of each record."""
    match walk.peek():
        case "[":
            yield from _items(walk)
        case "{":
            yield from _list_within(walk)
        case "":
            raise UserError(f"{walk.path}: the file is empty")
        case other:
            raise walk.fault(f"expected a list of records or an object that holds one, found {other!r}")
    if walk.peek():
        raise walk.fault(
            f"there is more after the end of the JSON; if it is JSON Lines, name the file {walk.path.stem}.jsonl"
        )


def _items(walk: JsonWalk) -> Iterator[tuple[int, int, int]]:
    walk.take("[")
    if walk.peek() == "]":
        walk.take("]")
        return
    while True:
        value, start, end, line = walk.value()
        if not isinstance(value, dict):
            raise walk.fault(f"a record must be an object like {{...}}, this is a {kind_of(value)}")
        yield start, end, line
        if walk.take(",]") == "]":
            return


def _list_within(walk: JsonWalk) -> list[tuple[int, int, int]]:
    """Reads the one list of objects in the object at hand."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    keys = []
    walk.take("{")
    while walk.peek() != "}":
        key = walk.value()[0]
        if not isinstance(key, str):
            raise walk.fault(f"expected a name in quotes, found a {kind_of(key)}")
        keys.append(key)
        walk.take(":")
        if walk.peek() == "[":
            spans = _objects(walk)
            if spans:
                found[key] = spans
        else:
            walk.value()
        if walk.peek() == "}":
            break
        walk.take(",")
    walk.take("}")
    if len(found) != 1:
        many, none = f"several lists of records, {sorted(found)}", f"no list of records, only {keys}"
        holds = f"holds {many if found else none}"
        raise UserError(f"{walk.path}: the object {holds}; keep one, or save the records as JSON Lines")
    return next(iter(found.values()))


def _objects(walk: JsonWalk) -> list[tuple[int, int, int]]:
    """Passes a list; returns where its items stand if all of them are objects, and nothing otherwise."""
    walk.take("[")
    spans = []
    all_objects = True
    if walk.peek() == "]":
        walk.take("]")
        return []
    while True:
        value, start, end, line = walk.value()
        all_objects = all_objects and isinstance(value, dict)
        spans.append((start, end, line))
        if walk.take(",]") == "]":
            return spans if all_objects else []
