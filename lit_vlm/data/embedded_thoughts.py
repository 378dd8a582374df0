"""Reads thoughts in the grammar of the embedded tasks: what they conclude, and whether they contradict themselves."""

import re
from collections.abc import Callable

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_SENTENCE_END = re.compile(r"\.(?:\s+|$)")


def thought_of(completion: str) -> str:
    """Returns what stands between the first pair of thinking tags, or the empty text."""
    found = _THOUGHT.search(completion)
    return found.group(1).strip() if found else ""


def sentences(thought: str) -> list[str]:
    """Splits a thought at its full stops.

    Example:
        >>> sentences("i see 2 3. 2 + 3 = 5.")
        ['i see 2 3', '2 + 3 = 5']
    """
    return [part.strip() for part in _SENTENCE_END.split(thought) if part.strip()]


def concluded(thought: str) -> str | None:
    """Reads the answer that a thought in the embedded tasks' grammar leads to; None where it leads to none.

    Example:
        >>> concluded("i see 2 3. 2 + 3 = 6."), concluded("37 < 78."), concluded("i see 4 2."), concluded("hm.")
        ('6', 'bottom', '42', None)
    """
    for pattern, conclude in _CONCLUSIONS:
        found = pattern.search(thought.strip())
        if found:
            return conclude(found)
    return None


def contradicts_itself(thought: str) -> bool:
    """Tells whether a step of a thought in the embedded tasks' grammar disagrees with the steps before it.

    Checked are: sums, that they are true, add the digits that were read and go on from one another; comparisons, that
    they are true; numbers that are compared, with the digits or the counts before; a count, with the last number that
    was counted; the odd digit, that it was read; ``so yes``, ``so no`` and relations, with the sentence before.

    Example:
        >>> contradicts_itself("i see 2 3. 2 + 3 = 5."), contradicts_itself("i see 2 3. 2 + 4 = 6.")
        (False, True)
        >>> contradicts_itself("4 > 3. so below."), contradicts_itself("4 > 3. so above.")
        (False, True)
    """
    steps = sentences(thought)
    return _adds_wrongly(steps) or _compares_wrongly(steps) or _ends_wrongly(steps)


def _adds_wrongly(steps: list[str]) -> bool:
    sums = [tuple(map(int, found.groups())) for step in steps if (found := _SUM.fullmatch(step))]
    if not sums:
        return False
    read = _READ.fullmatch(steps[0])
    digits = [int(digit) for digit in read.group(1).split()] if read else [sums[0][0], *(added for _, added, _ in sums)]
    wanted, total = [], digits[0]
    for digit in digits[1:]:
        wanted.append((total, digit, total + digit))
        total += digit
    return sums != wanted


def _compares_wrongly(steps: list[str]) -> bool:
    for place, step in enumerate(steps):
        found = _COMPARISON.fullmatch(step)
        if found is None:
            continue
        first, sign, second = int(found.group(1)), found.group(2), int(found.group(3))
        if sign != ("<" if first < second else ">" if first > second else "="):
            return True
        named = [_named_number(before) for before in steps[max(place - 2, 0) : place]]
        if any(number not in (None, value) for number, value in zip(named, (first, second), strict=False)):
            return True
    return False


def _named_number(step: str) -> int | None:
    """Reads the number that a sentence before a comparison is about."""
    digits = _NUMBER_OF_DIGITS.fullmatch(step)
    if digits:
        return int(digits.group(1).replace(" ", ""))
    if step.endswith(": none"):
        return 0
    last = _LAST_NUMBER.search(step)
    return int(last.group(1)) if last else None


def _ends_wrongly(steps: list[str]) -> bool:
    if len(steps) < 2:
        return False
    read, other = _READ.fullmatch(steps[0]), _OTHER.fullmatch(steps[-1])
    if read and other:
        return other.group(1) not in read.group(1)
    if not steps[-1].startswith("so "):
        return False
    before, end = steps[-2], steps[-1].removeprefix("so ")
    if end.isdigit():
        counted = [int(bracketed or bare) for bracketed, bare in _COUNTS.findall(before)]
        return int(end) != (counted[-1] if counted else 0)
    if before.startswith("no ") or before.endswith(" is there"):
        return end != ("no" if before.startswith("no ") else "yes")
    found = _COMPARISON.fullmatch(before)
    relations = {"<": ("left", "above"), ">": ("right", "below")}.get(found.group(2), ()) if found else ()
    return bool(relations) and end in ("left", "above", "right", "below") and end not in relations


_INTEGER = r"([0-9]{1,18})"
_SUM = re.compile(rf"{_INTEGER} \+ {_INTEGER} = {_INTEGER}")
_COMPARISON = re.compile(rf"{_INTEGER} ([<>=]) {_INTEGER}")
_READ = re.compile(r"i see ([0-9](?: [0-9])*)")
_OTHER = re.compile(r"the other is ([0-9])")
_NUMBER_OF_DIGITS = re.compile(r"(?:top|bottom) ([0-9](?: [0-9])*)")
_LAST_NUMBER = re.compile(rf" {_INTEGER}$")
_COUNTS = re.compile(rf"\({_INTEGER}\)|[a-z] {_INTEGER}(?=,|$)")
_CONCLUSIONS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?:^|\. )so ([^.]+)\.$"), lambda found: found.group(1)),
    (re.compile(r"(?:^|\. )the other is ([^.]+)\.$"), lambda found: found.group(1)),
    (re.compile(rf"\+ [0-9]+ = {_INTEGER}\.$"), lambda found: found.group(1)),
    (
        re.compile(r"(?:^|\. )[0-9]+ ([<>=]) [0-9]+\.$"),
        lambda found: {">": "top", "<": "bottom", "=": "equal"}[found.group(1)],
    ),
    (
        re.compile(r"left ([0-9]+), top ([0-9]+), right ([0-9]+), bottom ([0-9]+)\.$"),
        lambda found: f"({', '.join(found.groups())})",
    ),
    (
        re.compile(r"middle ([0-9]+)\. top [0-9]+, bottom [0-9]+, middle ([0-9]+)\.$"),
        lambda found: f"({', '.join(found.groups())})",
    ),
    (re.compile(r"^i see ([0-9](?: [0-9])*)\.$"), lambda found: found.group(1).replace(" ", "")),
    (
        re.compile(r"^(row 1: .*)\.$"),
        lambda found: ", ".join(
            item
            for row in found.group(1).split(". ")
            for item in row.partition(": ")[2].split(", ")
            if item not in ("", "-")
        ),
    ),
)
"""How thoughts end, and what that says; the first that fits counts."""
