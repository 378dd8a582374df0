"""Judgements of a critique's single remarks: how they are asked for, written and read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from lit_vlm.interfaces.critiques import CritiqueUnit

UnitLabel = Literal["correct", "wrong", "missing detail"]
UNIT_LABELS: tuple[UnitLabel, ...] = get_args(UnitLabel)
"""``correct``: the flaw is there, and rightly told; ``wrong``: it is not; ``missing detail``: it is there, but what is
said of it does not do."""
MOST_CHARACTERS = 200_000
"""Length from which a text is not read."""
INSTRUCTION = (
    "Below are a question, a solution and the remarks of a critic on its flaws. Judge each remark: it is correct where "
    "the flaw is there and rightly told, wrong where it is not, and has missing detail where the flaw is there but the "
    "remark does not say what it is or how to mend it. Answer with JSON, one object for each remark in order: "
    '[{"remark": 1, "label": "correct"}, {"remark": 2, "label": "missing detail"}].'
)
"""What a meta-critic is told where nothing else is given."""

_LIST = re.compile(r"\[\s*\{")
_DECODER = json.JSONDecoder()


def meta_critique_request(
    question: str,
    response: str,
    units: Sequence[CritiqueUnit],
    *,
    instruction: str = INSTRUCTION,
    reference: str | None = None,
) -> str:
    """Writes what a meta-critic is asked: question and solution, then the remarks, numbered.

    Args:
        question: What was asked.
        response: The solution.
        units: The remarks on it.
        instruction: What to write.
        reference: The true answer, for a meta-critic that may know it.

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024); the words
        are reconstructed.
    """
    told = [] if reference is None else [f"Reference answer: {reference}"]
    remarks = [f"Remark {number}: {_line(unit)}" for number, unit in enumerate(units, 1)]
    return "\n".join([instruction, *told, f"Question: {question}", f"Solution: {response}", *remarks])


def write_unit_labels(labels: Sequence[UnitLabel]) -> str:
    """Writes labels as the JSON list that ``read_unit_labels`` reads.

    Example:
        >>> write_unit_labels(["correct", "wrong"])
        '[{"remark": 1, "label": "correct"}, {"remark": 2, "label": "wrong"}]'
    """
    return json.dumps([{"remark": number, "label": label} for number, label in enumerate(labels, 1)])


def read_unit_labels(text: str, count: int) -> tuple[UnitLabel, ...] | None:
    """Reads the first JSON list of labels in a text, in time linear in the text.

    Args:
        text: ``[{"remark": 1, "label": "correct"}, …]``, maybe with words around it; case plays no part.
        count: Remarks that were judged.

    Returns:
        One label a remark, in order. None where there is no list, where it is cut off, has another number of labels,
        numbers that are not 1, 2, 3 and so on, or a label outside ``UNIT_LABELS``.

    Example:
        >>> read_unit_labels('[{"remark": 1, "label": "Missing detail"}]', 1)
        ('missing detail',)
        >>> read_unit_labels('[{"remark": 1, "label": "dubious"}]', 1) is None
        True
    """
    begin = _LIST.search(text) if len(text) <= MOST_CHARACTERS else None
    if begin is None:
        return None
    try:
        found, _ = _DECODER.raw_decode(text, begin.start())
    except (ValueError, RecursionError):
        return None
    if len(found) != count:
        return None
    labels = [_label(item, number) for number, item in enumerate(found, 1)]
    complete = tuple(label for label in labels if label is not None)
    return complete if len(complete) == count else None


def _label(item: Any, number: int) -> UnitLabel | None:
    if not isinstance(item, dict) or item.get("remark", number) not in (number, str(number)):
        return None
    label = item.get("label")
    name = " ".join(label.replace("_", " ").lower().split()) if isinstance(label, str) else None
    return next((known for known in UNIT_LABELS if known == name), None)


def _line(unit: CritiqueUnit) -> str:
    place = f"{unit.location}: " if unit.location else ""
    mend = f" Suggestion: {unit.suggestion}" if unit.suggestion else ""
    return f"{place}{unit.description}{mend}"
