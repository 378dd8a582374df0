"""Finds out how records hold critiques: as conversations, as pairs, or as labels of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lit_vlm.data.records.columns import all_columns, find_columns
from lit_vlm.data.records.conventions import Convention, Layout, Reading, detect
from lit_vlm.data.records.preference_conventions import (
    PREFERENCE_ALIASES,
    PreferenceColumns,
    PreferenceConvention,
    detect_preferences,
)
from lit_vlm.data.records.structured_values import structure
from lit_vlm.interfaces.errors import UserError

STEPWISE = "stepwise"
CritiqueConvention = Convention | PreferenceConvention | Literal["stepwise"]
CONVENTIONS: tuple[str, ...] = (*get_args(Convention), *get_args(PreferenceConvention), STEPWISE)
_ALIASES = {**PREFERENCE_ALIASES, "labels": ("labels",)}
_STEPWISE_FIELDS = ("prompt", "completions", "labels")
_SHARED = ("images", "videos", "system", "id", "source", "category", "difficulty")


@dataclass(frozen=True)
class CritiqueColumns(PreferenceColumns):
    """Columns of records of critiques; what is not given is found by its usual names."""

    labels: str | None = None
    """Whether each of ``completions``, which are steps then, is right (``labels``)."""


@dataclass(frozen=True)
class StepwiseReading(Reading):
    """How records of TRL's stepwise supervision are read: a prompt, steps and a label a step."""

    @property
    def layout(self) -> Layout:
        """Which columns hold the conversation: it is made of them."""
        return "prompt_completion"

    def describe(self) -> str:
        """Says it in one line, for the log."""
        return "stepwise supervision: text from " + " and ".join(repr(self.columns[name]) for name in _STEPWISE_FIELDS)


def detect_critiques(
    records: Sequence[Mapping[str, Any]],
    names: CritiqueColumns,
    convention: CritiqueConvention | None = None,
    where: str = "the data",
) -> Reading:
    """Decides how to read records of critiques.

    Args:
        records: The first of them, by column.
        names: Columns that the user names.
        convention: The convention, where the user says so.
        where: What is read, for messages.

    Returns:
        A ``PreferenceReading`` for pairs of critiques, a ``StepwiseReading`` for labels of steps, else the reading of
        the conversations that critiques end.

    Raises:
        UserError: Nothing fits, or two things do.
    """
    found = find_columns(records, names, _ALIASES)
    pairs: PreferenceConvention | None = next(
        (known for known in get_args(PreferenceConvention) if known == convention), None
    )
    if pairs is not None or (convention is None and "chosen" in found and "rejected" in found):
        return detect_preferences(records, names, pairs, where)
    if convention == STEPWISE or (convention is None and _has_step_labels(records, found)):
        missing = [name for name in _STEPWISE_FIELDS if name not in found]
        if missing:
            raise UserError(
                f"{where}: data.convention is {STEPWISE!r}, which needs a column of {missing[0]}; the columns are "
                f"{all_columns(records)}. Name it with data.columns.{missing[0]}"
            )
        read = (*_STEPWISE_FIELDS, *_SHARED)
        return StepwiseReading(STEPWISE, {name: column for name, column in found.items() if name in read})
    known_chats: tuple[Convention, ...] = get_args(Convention)
    chat = next((known for known in known_chats if known == convention), None)
    return detect(records, names, chat, where)


def _has_step_labels(records: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> bool:
    if not all(name in found for name in _STEPWISE_FIELDS):
        return False
    values = [structure(record.get(found["labels"])) for record in records]
    return any(isinstance(value, list) for value in values)
