"""Questions about pages of real handwritten digits: read, add, compare, count, find the odd one out."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_vlm.data.embedded import EmbeddedDataModule, check_choice
from lit_vlm.data.handwritten_digits import draw_page, scans_of_split
from lit_vlm.data.levelled_tasks import LevelledTasks
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import (
    Answer,
    MediaRef,
    Sample,
    Split,
    assistant_message,
    user_message,
)
from lit_vlm.interfaces.roles import SampleEncoder

TASKS = ("read_digit", "read_number", "sum", "compare", "count", "odd_one_out")
LEVELS = (1, 2, 3, 4, 5)
Rows = tuple[tuple[int, ...], ...]
"""The digits of a page, row by row."""
LOOKALIKES = {
    0: (6, 8, 9), 1: (4, 7), 2: (3, 7), 3: (5, 8), 4: (1, 9), 5: (3, 6, 8), 6: (0, 5), 7: (1, 2, 9), 8: (3, 5, 9),
    9: (4, 7, 8),
}  # fmt: skip
"""Digits that a handwritten one is easily taken for."""


@dataclass(frozen=True)
class _Question:
    """What is asked of a page: the digits on it, the words and the way to the answer."""

    rows: Rows
    text: str
    solve: Callable[[Rows], tuple[str, Answer]]
    """Digits as they are read -> thought, answer."""


@dataclass(frozen=True)
class DigitsReasoningGenerator(LevelledTasks):
    """Composes scans of one split into a page and asks about it."""

    seed: int = 0
    """Names the data set: another seed gives other questions about the same scans."""
    tasks: tuple[str, ...] = TASKS
    """Tasks to ask, drawn uniformly."""
    levels: tuple[int, ...] = (1, 2, 3)
    """Difficulties 1 to 5, drawn uniformly: more digits, smaller and grainier."""
    image_size: int = 64
    """Side of the page in pixels."""

    name = "digits_reasoning"

    def __post_init__(self) -> None:
        check_choice("tasks", self.tasks, TASKS)
        check_choice("levels", self.levels, LEVELS)
        if self.image_size < 32:
            raise UserError(f"image_size is {self.image_size}; digits need at least 32 pixels")

    def sample(self, split: Split, index: int) -> Sample:
        """Builds one page and its question; scans come from the split alone.

        Raises:
            UserError: There is no such split.
        """
        task, level, stream = self._drawn(split, index)
        question = _QUESTIONS[task](level, stream)
        thought, answer = question.solve(question.rows)
        scans_by_digit = scans_of_split(split)
        scans = [[stream.choice(scans_by_digit[digit]) for digit in row] for row in question.rows]
        image = draw_page(self._place(scans, stream), self.image_size, 4.0 * level, stream)
        outline = self.outline(split, index)
        return replace(
            outline,
            messages=(
                user_message(question.text, images=1),
                assistant_message(f"<think>{thought}</think><answer>{answer.value}</answer>"),
            ),
            images=(MediaRef(pil=image, size=image.size),),
            answer=answer,
            meta=replace(outline.meta, extra={"rows": question.rows, "scans": scans}),
        )

    def misreadings(self, split: Split, index: int, stream: random.Random) -> Iterator[tuple[str, str]]:
        """Yields without end what somebody would think and answer who takes a digit for another.

        Digits that look alike are taken for each other more often. One is misread in the first readings, more later,
        for questions that a single slip does not decide. The answer may still be right.
        """
        task, level, drawn = self._drawn(split, index)
        question = _QUESTIONS[task](level, drawn)
        for reading in itertools.count():
            rows = [list(row) for row in question.rows]
            for _ in range(1 + reading // 50):
                row = stream.choice(rows)
                column = stream.randrange(len(row))
                seen = LOOKALIKES[row[column]] if stream.random() < 0.75 else range(10)
                # Numbers start with no 0, and a reader knows that.
                row[column] = stream.choice([digit for digit in seen if digit != row[column] and (digit or column)])
            thought, answer = question.solve(tuple(map(tuple, rows)))
            yield thought, str(answer.value)

    def _place(self, scans: Sequence[Sequence[int]], stream: random.Random) -> list[tuple[int, tuple[int, int], int]]:
        """Spreads rows of scans over the page, each in its own cell with some jitter."""
        cells = []
        height = self.image_size // max(len(scans), 2)
        top = (self.image_size - height * len(scans)) // 2
        for row_index, row in enumerate(scans):
            width = self.image_size // max(len(row), 2)
            left = (self.image_size - width * len(row)) // 2
            size = min(width, height)
            for column, scan in enumerate(row):
                side = round(size * stream.uniform(0.75, 1.0))
                corner = (
                    left + column * width + stream.randint(0, width - side),
                    top + row_index * height + stream.randint(0, height - side),
                )
                cells.append((scan, corner, side))
        return cells


class DigitsReasoning(EmbeddedDataModule):
    """Serves questions about pages of real handwritten digits; no test scan is ever seen in training.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        tasks: Tasks to ask, drawn uniformly.
        levels: Difficulties 1 to 5, drawn uniformly.
        image_size: Side of the page in pixels.
        seed: Names the data set.
        options: Sizes, batch sizes and workers, see ``EmbeddedDataModule``.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        tasks: Sequence[str] = TASKS,
        levels: Sequence[int] = (1, 2, 3),
        image_size: int = 64,
        seed: int = 0,
        **options: Any,
    ) -> None:
        generator = DigitsReasoningGenerator(seed, tuple(tasks), tuple(levels), image_size)
        super().__init__([generator], encoder, **options)


def _digits(count: int, stream: random.Random) -> tuple[int, ...]:
    return tuple(stream.randrange(10) for _ in range(count))


def _spaced(digits: Sequence[int]) -> str:
    return " ".join(str(digit) for digit in digits)


def _number(digits: Sequence[int]) -> int:
    return int("".join(str(digit) for digit in digits))


def _read_digit(level: int, stream: random.Random) -> _Question:
    digit = stream.randrange(10)
    text = stream.choice(("Which digit is this?", "Read the digit.", "What digit is written here?"))
    return _Question(((digit,),), text, _read)


def _read_number(level: int, stream: random.Random) -> _Question:
    digits = (stream.randint(1, 9), *_digits(level, stream))
    text = stream.choice(("Read the number.", "Which number is this?", "What number is written here?"))
    return _Question((digits,), text, _read)


def _read(rows: Rows) -> tuple[str, Answer]:
    return f"i see {_spaced(rows[0])}.", Answer("number", str(_number(rows[0])))


def _sum(level: int, stream: random.Random) -> _Question:
    digits = _digits(level + 1, stream)
    text = stream.choice(("Add the digits.", "What is the sum of the digits?", "What do the digits add up to?"))
    return _Question((digits,), text, _add)


def _add(rows: Rows) -> tuple[str, Answer]:
    total, *others = rows[0]
    steps = [f"i see {_spaced(rows[0])}."]
    for digit in others:
        steps.append(f"{total} + {digit} = {total + digit}.")
        total += digit
    return " ".join(steps), Answer("number", str(total))


def _compare(level: int, stream: random.Random) -> _Question:
    length = 1 + (level + 1) // 2
    top, bottom = ((stream.randint(1, 9), *_digits(length - 1, stream)) for _ in range(2))
    if stream.random() < 0.2:
        bottom = top
    text = stream.choice(
        ("Which number is larger, top or bottom?", "Is the top or the bottom number larger, or are they equal?")
    )
    return _Question((top, bottom), text, _relate)


def _relate(rows: Rows) -> tuple[str, Answer]:
    top, bottom = rows
    first, second = _number(top), _number(bottom)
    relation, answer = (">", "top") if first > second else ("<", "bottom") if first < second else ("=", "equal")
    thought = f"top {_spaced(top)}. bottom {_spaced(bottom)}. {first} {relation} {second}."
    return thought, Answer("text", answer)


def _count(level: int, stream: random.Random) -> _Question:
    columns = 2 + level // 2
    cells = 2 * columns
    digit = stream.randrange(10)
    others = [other for other in range(10) if other != digit]
    matches = stream.randint(0, cells)
    digits = [digit] * matches + [stream.choice(others) for _ in range(cells - matches)]
    stream.shuffle(digits)
    text = stream.choice(("How many times is {} written?", "Count the digit {}.", "How often does {} appear?"))
    rows = (tuple(digits[:columns]), tuple(digits[columns:]))
    return _Question(rows, text.format(digit), lambda read: _tally(read, digit))


def _tally(rows: Rows, digit: int) -> tuple[str, Answer]:
    seen = 0
    counted = []
    for item in _in_a_line(rows):
        seen += item == digit
        counted.append(f"{item} ({seen})" if item == digit else str(item))
    return f"i see {' '.join(counted)}. so {seen}.", Answer("number", str(seen))


def _odd_one_out(level: int, stream: random.Random) -> _Question:
    columns = 2 + level // 2
    common, odd = stream.sample(range(10), 2)
    digits = [common] * (2 * columns)
    digits[stream.randrange(len(digits))] = odd
    text = stream.choice(("Which digit is the odd one out?", "All digits but one are the same. Which one differs?"))
    rows = (tuple(digits[:columns]), tuple(digits[columns:]))
    return _Question(rows, text, _single_out)


def _single_out(rows: Rows) -> tuple[str, Answer]:
    digits = _in_a_line(rows)
    common = Counter(digits).most_common(1)[0][0]
    # Where a digit was misread, none or two may differ.
    odd = next((digit for digit in digits if digit != common), common)
    thought = f"i see {_spaced(digits)}. most are {common}. the other is {odd}."
    return thought, Answer("number", str(odd))


def _in_a_line(rows: Rows) -> list[int]:
    return [digit for row in rows for digit in row]


_QUESTIONS: dict[str, Callable[[int, random.Random], _Question]] = {
    "read_digit": _read_digit,
    "read_number": _read_number,
    "sum": _sum,
    "compare": _compare,
    "count": _count,
    "odd_one_out": _odd_one_out,
}
