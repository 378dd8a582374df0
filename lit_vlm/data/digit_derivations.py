"""How the answers to questions about digits are derived, sentence by sentence, from the page and the sentences before.

The sentences are those of ``lit_vlm.data.digits_reasoning``; here they are made anew from the digits of the page.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence

from lit_vlm.data.derivation_slots import COMPARISON, NUMBER, Derivation, Slot, sign_between

Rows = Sequence[Sequence[int]]

_READ = re.compile(r"i see [0-9](?: [0-9])*")
_SUM = re.compile(rf"{NUMBER} \+ {NUMBER} = {NUMBER}")
_TALLY = re.compile(r"i see [0-9](?: \([0-9]{1,3}\))?(?: [0-9](?: \([0-9]{1,3}\))?)*")
_COUNTED = re.compile(r"([0-9])(?: \(([0-9]+)\))?(?= |$)")
_SO = re.compile(rf"so {NUMBER}")
_MOST = re.compile(r"most are ([0-9])")
_OTHER = re.compile(r"the other is ([0-9])")
_ASKED = re.compile(r"[0-9]")


def digit_derivation(task: str, question: str, rows: Rows) -> Derivation:
    """Returns how a question about a page of digits is answered.

    Args:
        task: The kind of the question, such as ``sum``.
        question: Its words, which name the digit where one is to be counted.
        rows: The digits of the page, row by row.

    Raises:
        ValueError: There is no such task, or the question names no digit to count.
    """
    if task == "count":
        asked = _ASKED.search(question)
        if asked is None:
            raise ValueError(f"the question {question!r} names no digit to count")
        return _count(_in_a_line(rows), int(asked.group()))
    if task not in _DERIVATIONS:
        raise ValueError(f"there is no task {task!r} about digits")
    return _DERIVATIONS[task](rows)


def _read(rows: Rows) -> Derivation:
    digits = yield from _seen(rows[0])
    return "".join(map(str, digits))


def _sum(rows: Rows) -> Derivation:
    total, *others = yield from _seen(rows[0])
    for digit in others:
        found = yield Slot(_SUM, f"{total} + {digit} = {total + digit}", _error_of_sum)
        total = int(found[3])
    return str(total)


def _compare(rows: Rows) -> Derivation:
    numbers = []
    for place, row in zip(("top", "bottom"), rows, strict=True):
        form = re.compile(rf"{place} [0-9](?: [0-9])*")
        found = yield Slot(form, f"{place} {_spaced(row)}", "visual interpretation")
        numbers.append(int(found.group().removeprefix(place).replace(" ", "")))
    first, second = numbers
    found = yield Slot(COMPARISON, f"{first} {sign_between(first, second)} {second}", "reasoning")
    return {">": "top", "<": "bottom", "=": "equal"}[found[2]]


def _count(digits: Sequence[int], asked: int) -> Derivation:
    found = yield Slot(_TALLY, _tally(digits, asked), lambda said: _error_of_tally(said.group(), digits, asked))
    counts = [count for _, count in _COUNTED.findall(found.group()) if count]
    found = yield Slot(_SO, f"so {counts[-1] if counts else 0}", "reasoning")
    return found[1]


def _odd_one_out(rows: Rows) -> Derivation:
    digits = yield from _seen(_in_a_line(rows))
    counts = Counter(digits)
    most = max(counts.values())
    common = counts.most_common(1)[0][0]
    found = yield Slot(_MOST, f"most are {common}", "reasoning", lambda said: counts[int(said[1])] == most)
    common = int(found[1])
    # Where digits were misread, none or two may differ.
    others = [digit for digit in digits if digit != common] or [common]
    found = yield Slot(_OTHER, f"the other is {others[0]}", "reasoning", lambda said: int(said[1]) in others)
    return found[1]


_DERIVATIONS: dict[str, Callable[[Rows], Derivation]] = {
    "read_digit": _read,
    "read_number": _read,
    "sum": _sum,
    "compare": _compare,
    "odd_one_out": _odd_one_out,
}


def _seen(digits: Sequence[int]) -> Generator[Slot, re.Match[str], list[int]]:
    found = yield Slot(_READ, f"i see {_spaced(digits)}", "visual interpretation")
    return [int(digit) for digit in found.group().split()[2:]]


def _error_of_sum(said: re.Match[str]) -> str:
    """A sum that is false is calculated wrongly; a true one adds what it should not."""
    return "reasoning" if int(said[1]) + int(said[2]) == int(said[3]) else "numerical calculation"


def _error_of_tally(said: str, digits: Sequence[int], asked: int) -> str:
    read = [int(digit) for digit, _ in _COUNTED.findall(said)]
    if read != list(digits):
        return "visual interpretation"
    if any(said == _tally(digits, other) for other in set(digits) - {asked}):
        return "question understanding"
    return "numerical calculation"


def _tally(digits: Sequence[int], asked: int) -> str:
    seen = 0
    counted = []
    for digit in digits:
        seen += digit == asked
        counted.append(f"{digit} ({seen})" if digit == asked else str(digit))
    return f"i see {' '.join(counted)}"


def _spaced(digits: Sequence[int]) -> str:
    return " ".join(map(str, digits))


def _in_a_line(rows: Rows) -> list[int]:
    return [digit for row in rows for digit in row]
