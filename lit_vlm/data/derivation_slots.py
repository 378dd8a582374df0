"""What a derivation must say at each place, given the picture and what it has said so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """One place of a derivation."""

    form: re.Pattern[str]
    """What a sentence looks like that can stand here, right or wrong."""
    expected: str
    """The sentence that is right here."""
    error_type: str | Callable[[re.Match[str]], str]
    """Kind of the error of another sentence, or what tells it."""
    agrees: Callable[[re.Match[str]], bool] | None = None
    """Tells whether another sentence is as right; None where none is."""
    mend: Callable[[re.Match[str]], str] | None = None
    """Writes what should stand in place of a wrong sentence; None where that is always ``expected``."""

    def is_right(self, found: re.Match[str]) -> bool:
        """Tells whether a sentence of the form is right."""
        return found.group() == self.expected or (self.agrees is not None and self.agrees(found))

    def mended(self, found: re.Match[str]) -> str:
        """Writes what should stand in place of a sentence that is wrong."""
        return self.expected if self.mend is None else self.mend(found)

    def error_of(self, found: re.Match[str]) -> str:
        """Names the kind of error of a sentence that is wrong."""
        return self.error_type if isinstance(self.error_type, str) else self.error_type(found)


Derivation = Generator[Slot, re.Match[str], str]
"""Yields the next slot, is sent the sentence that was said there, and returns what is concluded in the end.

A slot that infers is made from the sentences that were sent, whether these were right or not."""
NUMBER = r"([0-9]{1,6})"
COMPARISON = re.compile(rf"{NUMBER} ([<>=]) {NUMBER}")


def sign_between(first: int, second: int) -> str:
    """Writes how two numbers compare.

    Example:
        >>> sign_between(2, 3), sign_between(3, 3)
        ('<', '=')
    """
    return ">" if first > second else "<" if first < second else "="


def derived(derivation: Derivation) -> tuple[list[str], str]:
    """Goes through a derivation without a fault.

    Returns:
        Its sentences, and what they conclude.
    """
    steps: list[str] = []
    slot = next(derivation)
    while True:
        found = slot.form.fullmatch(slot.expected)
        if found is None:
            raise ValueError(f"{slot.expected!r} is not of the form {slot.form.pattern!r}")
        steps.append(slot.expected)
        try:
            slot = derivation.send(found)
        except StopIteration as end:
            return steps, str(end.value)
