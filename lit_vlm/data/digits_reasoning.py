"""Questions about pages of real handwritten digits: read, add, compare, count, find the odd one out."""

import random
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class _Question:
    """What is asked of a page: digits row by row, the words and the truth."""

    rows: tuple[tuple[int, ...], ...]
    text: str
    thought: str
    answer: Answer


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
        scans_by_digit = scans_of_split(split)
        scans = [[stream.choice(scans_by_digit[digit]) for digit in row] for row in question.rows]
        image = draw_page(self._place(scans, stream), self.image_size, 4.0 * level, stream)
        outline = self.outline(split, index)
        return replace(
            outline,
            messages=(
                user_message(question.text, images=1),
                assistant_message(f"<think>{question.thought}</think><answer>{question.answer.value}</answer>"),
            ),
            images=(MediaRef(pil=image, size=image.size),),
            answer=question.answer,
            meta=replace(outline.meta, extra={"rows": question.rows, "scans": scans}),
        )

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
    return _Question(((digit,),), text, f"i see {digit}.", Answer("number", str(digit)))


def _read_number(level: int, stream: random.Random) -> _Question:
    digits = (stream.randint(1, 9), *_digits(level, stream))
    text = stream.choice(("Read the number.", "Which number is this?", "What number is written here?"))
    return _Question((digits,), text, f"i see {_spaced(digits)}.", Answer("number", str(_number(digits))))


def _sum(level: int, stream: random.Random) -> _Question:
    digits = _digits(level + 1, stream)
    text = stream.choice(("Add the digits.", "What is the sum of the digits?", "What do the digits add up to?"))
    total = digits[0]
    steps = []
    for digit in digits[1:]:
        steps.append(f"{total} + {digit} = {total + digit}.")
        total += digit
    return _Question((digits,), text, " ".join([f"i see {_spaced(digits)}.", *steps]), Answer("number", str(total)))


def _compare(level: int, stream: random.Random) -> _Question:
    length = 1 + (level + 1) // 2
    top, bottom = ((stream.randint(1, 9), *_digits(length - 1, stream)) for _ in range(2))
    if stream.random() < 0.2:
        bottom = top
    text = stream.choice(
        ("Which number is larger, top or bottom?", "Is the top or the bottom number larger, or are they equal?")
    )
    first, second = _number(top), _number(bottom)
    relation, answer = (">", "top") if first > second else ("<", "bottom") if first < second else ("=", "equal")
    thought = f"top {_spaced(top)}. bottom {_spaced(bottom)}. {first} {relation} {second}."
    return _Question((top, bottom), text, thought, Answer("text", answer))


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
    seen = 0
    counted = []
    for item in digits:
        seen += item == digit
        counted.append(f"{item} ({seen})" if item == digit else str(item))
    thought = f"i see {' '.join(counted)}. so {matches}."
    return _Question(rows, text.format(digit), thought, Answer("number", str(matches)))


def _odd_one_out(level: int, stream: random.Random) -> _Question:
    columns = 2 + level // 2
    common, odd = stream.sample(range(10), 2)
    digits = [common] * (2 * columns)
    digits[stream.randrange(len(digits))] = odd
    text = stream.choice(("Which digit is the odd one out?", "All digits but one are the same. Which one differs?"))
    rows = (tuple(digits[:columns]), tuple(digits[columns:]))
    thought = f"i see {_spaced(digits)}. most are {common}. the other is {odd}."
    return _Question(rows, text, thought, Answer("number", str(odd)))


_QUESTIONS: dict[str, Callable[[int, random.Random], _Question]] = {
    "read_digit": _read_digit,
    "read_number": _read_number,
    "sum": _sum,
    "compare": _compare,
    "count": _count,
    "odd_one_out": _odd_one_out,
}
