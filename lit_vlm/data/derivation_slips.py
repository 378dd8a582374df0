"""Derivations with one slip: a number that is off by one where nothing is read, and the steps that follow from it."""

from __future__ import annotations

import re

from lit_vlm.data.derivation_checks import derivation_of, true_derivation
from lit_vlm.interfaces.records import Sample

SLIPS = ("numerical calculation", "reasoning")
"""Kinds of errors that are made."""
_LAST_NUMBER = re.compile(r"[0-9]+(?=\)?$)")


def slips(sample: Sample) -> tuple[str, ...]:
    """Writes solutions of an embedded question that read the picture rightly and slip once.

    Each takes one of the derivation's sums, counts, halves, comparisons or conclusions for one that is a number off,
    and goes on from there without another fault.

    Args:
        sample: The question, with the truth about its picture.

    Returns:
        The completions, ordered by the place of the slip; none where nothing is concluded. The answer may still be
        the true one.

    Raises:
        ValueError: The sample is no such question.
    """
    steps, _ = true_derivation(sample)
    found = (_slipping(sample, place, slip) for place in range(len(steps)) for slip in (-1, 1))
    return tuple(text for text in found if text is not None)


def _slipping(sample: Sample, wrong_place: int, slip: int) -> str | None:
    """Derives with a slip at one place; None where that cannot be, or is an error of another kind."""
    derivation = derivation_of(sample)
    slot, place = next(derivation), 0
    said: list[str] = []
    while True:
        sentence = slot.expected
        if place == wrong_place:
            sentence = _LAST_NUMBER.sub(lambda number: str(int(number[0]) + slip), slot.expected)
        found = slot.form.fullmatch(sentence)
        if found is None:
            return None
        if place == wrong_place and (slot.is_right(found) or slot.error_of(found) not in SLIPS):
            return None
        said.append(sentence)
        try:
            slot, place = derivation.send(found), place + 1
        except StopIteration as end:
            return f"<think>{'. '.join(said)}.</think><answer>{end.value}</answer>"
