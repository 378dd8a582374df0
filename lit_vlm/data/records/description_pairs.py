"""HA-DPO's descriptions: a JSON object that holds, for each image, right and wrong descriptions of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from lit_vlm.data.records.json_file import JsonWalk
from lit_vlm.data.records.json_lines import LONGEST_RECORD
from lit_vlm.data.records.json_text import parse_record
from lit_vlm.data.records.record import Record, RecordFile

DESCRIBE = "Describe this image in detail."
"""The question, which the file does not hold."""
HALVES = ("chosen", "rejected")


class DescriptionPairs(RecordFile):
    """The pairs of ``{"<image id>": {"chosen": [text, …], "rejected": [text, …]}, …}``, one record each.

    The paraphrases of an image are paired in order; where one side has fewer, it begins again. A side may also be a
    single text. The image's file is ``<image id>.jpg``.

    Args:
        path: The file.
        longest_record: Characters of an image's descriptions that are still read.

    Raises:
        UserError: The file is broken, or an image has no such object.
    """

    def __init__(self, path: Path, *, longest_record: int = LONGEST_RECORD) -> None:
        self.path = path
        self._keys: list[str] = []
        spans = []
        with JsonWalk(path, longest_record) as walk:
            walk.take("{")
            while walk.peek() != "}":
                key = walk.value()[0]
                walk.take(":")
                value, start, end, line = walk.value()
                if not is_description(value):
                    raise walk.fault(f"the image {key!r} needs an object with chosen and rejected descriptions")
                self._keys.append(str(key))
                spans.append((start, end, line, max(len(_listed(value[half])) for half in HALVES)))
                if walk.take(",}") == "}":
                    break
        self._starts, self._ends, self._lines, counts = numpy.array(spans, numpy.int64).reshape(-1, 4).T
        # An image without any description still is a record, which is reported.
        self._last = numpy.cumsum(numpy.maximum(counts, 1))

    def __len__(self) -> int:
        return int(self._last[-1]) if len(self._last) else 0

    def origin(self, index: int) -> str:
        """Names the file, the line at which the image's descriptions begin, the pair and the image."""
        image, pair = self._place(index)
        return f"{self.path}, line {int(self._lines[image])} pair {pair + 1} of image {self._keys[image]}"

    def __getitem__(self, index: int) -> Record:
        self._check_index(index)
        image, pair = self._place(index)
        origin = self.origin(index)
        with self.path.open("rb") as file:
            file.seek(int(self._starts[image]))
            data = file.read(int(self._ends[image] - self._starts[image]))
        sides = {half: _listed(parse_record(data, origin)[half]) for half in HALVES}
        values: dict[str, Any] = {half: side[pair % len(side)] if side else "" for half, side in sides.items()}
        key = self._keys[image]
        values |= {"question": DESCRIBE, "image": f"{key}.jpg", "image_id": key}
        return Record(values, origin, self.path.parent)

    def _place(self, index: int) -> tuple[int, int]:
        image = int(numpy.searchsorted(self._last, index, side="right"))
        return image, index - (int(self._last[image - 1]) if image else 0)


def is_description(value: Any) -> bool:
    """Tells whether a value holds right and wrong descriptions of an image, and nothing else that a record has."""
    return isinstance(value, Mapping) and set(HALVES) <= value.keys() and "question" not in value


def _listed(side: Any) -> list[Any]:
    return side if isinstance(side, list) else [side]
