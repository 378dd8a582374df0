"""Revisions of embedded solutions that follow a critique, for better or worse, and their scores."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from lit_vlm.data.derivation_checks import check_derivation, derivation_of
from lit_vlm.data.derivation_slots import Slot
from lit_vlm.interfaces.critiques import CritiqueUnit, StepLabel
from lit_vlm.interfaces.records import Sample
from lit_vlm.parsing.critique_units import STEP

BEST, WORST = 10.0, 1.0
"""Scores of a solution whose every step is right, and of one that has none."""
_STATED = "the answer is "
_SEEN_WRONGLY = "visual interpretation"


def suggested_changes(units: Sequence[CritiqueUnit], stream: random.Random, passed_over: float = 0.0) -> dict[int, str]:
    """Reads from remarks what to write at which step.

    Args:
        units: The remarks; those without a step's number or a suggestion change nothing.
        stream: Source of the choices.
        passed_over: Probability in [0, 1] that a remark is not followed.

    Returns:
        Sentences by the number of their step, from 1.
    """
    changes: dict[int, str] = {}
    for unit in units:
        place = STEP.fullmatch(unit.location)
        if stream.random() >= passed_over and place is not None and unit.suggestion:
            changes.setdefault(int(place.group(1)), unit.suggestion)
    return changes


def revise(sample: Sample, steps: Sequence[StepLabel], changes: Mapping[int, str]) -> str:
    """Writes a solution anew, as one would who does not look at the picture.

    What the changes say is taken over, also where it is wrong, if it can stand there. After the first change what is
    inferred is inferred anew; what is read off the picture stays as it was. Nothing changes without a change.

    Args:
        sample: The embedded question.
        steps: The solution's steps, the answer last.
        changes: Sentences by the number of their step, from 1.

    Raises:
        ValueError: The sample is no embedded question.
    """
    derivation = derivation_of(sample)
    slot, said, is_changed = next(derivation), list[str](), False
    while True:
        number = len(said) + 1
        change = slot.form.fullmatch(changes.get(number, "\0"))
        is_changed = is_changed or change is not None
        own = steps[number - 1].text if number < len(steps) else None
        found = change or slot.form.fullmatch(_continued(slot, own, is_changed))
        if found is None:
            raise ValueError(f"{slot.expected!r} is not of the form {slot.form.pattern!r}")
        said.append(found.group())
        try:
            slot = derivation.send(found)
        except StopIteration as end:
            concluded = str(end.value)
            break
    stated = changes.get(len(steps), "" if is_changed else steps[-1].text)
    answer = stated.removeprefix(_STATED) if stated.startswith(_STATED) else concluded
    return f"<think>{'. '.join(said)}.</think><answer>{answer}</answer>"


def revision_score(sample: Sample, text: str) -> float:
    """Scores a solution of an embedded question from 1 to 10, by the share of its steps that are right.

    Raises:
        ValueError: The sample is no embedded question.
    """
    steps = check_derivation(sample, text)
    if not steps:
        return WORST
    return WORST + (BEST - WORST) * sum(step.correct for step in steps) / len(steps)


def _continued(slot: Slot, own: str | None, is_changed: bool) -> str:
    """Says what stands at a place that no change is about."""
    found = None if own is None else slot.form.fullmatch(own)
    if own is None or found is None:
        return slot.expected
    stays = not is_changed or slot.is_right(found) or slot.error_of(found) == _SEEN_WRONGLY
    return own if stays else slot.expected
