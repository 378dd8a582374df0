"""Finds out how records hold pairs of completions, or graded ones, from the first of them, by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_vlm.data.records.columns import ALIASES, ColumnNames, all_columns, find_columns
from lit_vlm.data.records.conventions import Reading
from lit_vlm.data.records.structured_values import objects, structure
from lit_vlm.data.records.turns import CONTENT_KEYS, ROLE_KEYS
from lit_vlm.interfaces.errors import UserError

PreferenceConvention = Literal[
    "prompt_pairs",
    "question_pairs",
    "instruction_pairs",
    "conversation_pairs",
    "implicit_pairs",
    "swift_pairs",
    "rlhf_v",
    "candidates",
]
PREFERENCE_TITLES: dict[str, str] = {
    "prompt_pairs": "prompts with a chosen and a rejected completion",
    "question_pairs": "questions with a chosen and a rejected answer",
    "instruction_pairs": "instructions with a chosen and a rejected output",
    "conversation_pairs": "conversations with a chosen and a rejected last turn",
    "implicit_pairs": "chosen and rejected conversations",
    "swift_pairs": "ms-swift messages with a rejected response",
    "rlhf_v": "RLHF-V texts of a question, a chosen and a rejected answer",
    "candidates": "prompts with graded completions",
}
MIXTURE_ENTRY = "mixture_entry"
"""Column into which a mixture of files writes the name of a record's entry."""
CATEGORY = "category"


@dataclass(frozen=True)
class PreferenceColumns(ColumnNames):
    """Columns of preference records; what is not given is found by its usual names."""

    chosen: str | None = None
    """The completion that is preferred (``chosen``)."""
    rejected: str | None = None
    """The completion that it is preferred to (``rejected``, ``rejected_response``)."""
    completions: str | None = None
    """Several completions with their grades (``completions``, ``responses``, ``candidates``)."""
    weight: str | None = None
    """Factor of a pair's loss, 0 or more (``weight``)."""
    text: str | None = None
    """JSON text of question, chosen and rejected, as RLHF-V has it (``text``)."""


_READ_BY_ALL = ("images", "videos", "system", "id")
PREFERENCE_ALIASES: dict[str, tuple[str, ...]] = {
    **{field: ALIASES[field] for field in ("messages", "prompt", "question", "instruction", "input", *_READ_BY_ALL)},
    "images": (*ALIASES["images"], "img_path"),
    "source": ("origin_dataset", *ALIASES["source"]),
    "chosen": ("chosen",),
    "rejected": ("rejected", "rejected_response"),
    "completions": ("completions", "responses", "candidates"),
    "weight": ("weight",),
    "text": ("text",),
}
# What each convention reads beside what all read; the first says what is asked.
_READ: dict[str, tuple[str, ...]] = {
    "prompt_pairs": ("prompt", "chosen", "rejected"),
    "question_pairs": ("question", "chosen", "rejected"),
    "instruction_pairs": ("instruction", "input", "chosen", "rejected"),
    "conversation_pairs": ("messages", "chosen", "rejected"),
    "implicit_pairs": ("chosen", "rejected"),
    "swift_pairs": ("messages", "rejected"),
    "rlhf_v": ("text",),
}
_PROMPTS = ("prompt", "question", "instruction", "messages")
# Answers and options are only read where the user names them.
_SHARED = (*_READ_BY_ALL, "source", CATEGORY, "difficulty", "weight", "answer", "options")


@dataclass(frozen=True)
class PreferenceReading(Reading):
    """How the records of a preference data set are read."""

    @property
    def holds_pairs(self) -> bool:
        """Whether each record is a pair, and not a set of graded completions."""
        return self.convention != "candidates"

    @property
    def prompt_field(self) -> str | None:
        """Field that says what is asked; None where the completions or the text do."""
        return next((field for field in _PROMPTS if field in self.columns), None)

    def describe(self) -> str:
        """Says it in one line, for the log."""
        text = ("text", *_PROMPTS, "input", "chosen", "rejected", "completions")
        named = [f"text from {' and '.join(repr(self.columns[field]) for field in text if field in self.columns)}"]
        for field in ("images", "videos", "system", "answer", CATEGORY, "difficulty", "weight"):
            if field in self.columns:
                named.append(f"{field} from {self.columns[field]!r}")
        return f"{PREFERENCE_TITLES[self.convention]}: {', '.join(named)}"


def detect_preferences(
    records: Sequence[Mapping[str, Any]],
    names: PreferenceColumns,
    convention: PreferenceConvention | None = None,
    where: str = "the data",
) -> PreferenceReading:
    """Decides how to read preference records.

    Args:
        records: The first of them, by column.
        names: Columns that the user names.
        convention: The convention, where the user says so.
        where: What is read, for messages.

    Raises:
        UserError: Nothing fits, or two things do.
    """
    found = find_columns(records, names, PREFERENCE_ALIASES)
    if CATEGORY not in found and any(MIXTURE_ENTRY in record for record in records):
        found[CATEGORY] = MIXTURE_ENTRY
    fitting = dict(_fitting(records, found))
    if convention is not None:
        fields = fitting.get(convention) or _fields_of(convention, found)
        missing = [field for field in fields if field not in found and field != "input"]
        if missing or (convention == "candidates" and fields[0] not in _PROMPTS):
            wanted = missing[0] if missing else "prompt"
            raise UserError(
                f"{where}: data.convention is {convention!r}, which needs a column of {wanted}; the columns are "
                f"{all_columns(records)}. Name it with data.columns.{wanted}"
            )
        return _reading(convention, fields, found)
    said = set(names.given())
    if len(fitting) > 1:
        chosen = {name: fields for name, fields in fitting.items() if fields[0] in said or said & set(fields[1:])}
        asked = {name: fields for name, fields in chosen.items() if fields[0] in said}
        fitting = asked or chosen or fitting
    if len(fitting) > 1:
        shown = " or ".join(
            f"{name} ({', '.join(repr(found[field]) for field in fields if field in found)})"
            for name, fields in fitting.items()
        )
        raise UserError(f"{where} could be read as {shown}; say which with data.convention")
    if not fitting:
        raise UserError(_nothing_fits(records, found, where))
    ((name, fields),) = fitting.items()
    return _reading(name, fields, found)


def _fitting(
    records: Sequence[Mapping[str, Any]], found: Mapping[str, str]
) -> Iterator[tuple[PreferenceConvention, tuple[str, ...]]]:
    """Yields the conventions whose columns are there, with the fields that they read."""
    asked = [field for field in _PROMPTS if field in found]
    if len(asked) > 1 and asked[-1] == "messages":
        asked.pop()  # beside a prompt of its own it is one of the halves again
    if "chosen" in found and "rejected" in found:
        if not asked and any(_is_conversation(record.get(found["chosen"])) for record in records):
            yield "implicit_pairs", _READ["implicit_pairs"]
        for field in asked:
            name = _pairs_with(field)
            yield name, _READ[name]
    elif "rejected" in found and "messages" in found:
        yield "swift_pairs", _READ["swift_pairs"]
    elif "text" in found and any(_is_pair(structure(record.get(found["text"]))) for record in records):
        yield "rlhf_v", _READ["rlhf_v"]
    if "completions" in found and asked and any(_is_several(record.get(found["completions"])) for record in records):
        yield "candidates", _candidate_fields(asked[0])


def _pairs_with(field: str) -> PreferenceConvention:
    match field:
        case "prompt":
            return "prompt_pairs"
        case "question":
            return "question_pairs"
        case "instruction":
            return "instruction_pairs"
    return "conversation_pairs"


def _fields_of(convention: PreferenceConvention, found: Mapping[str, str]) -> tuple[str, ...]:
    if convention == "candidates":
        return _candidate_fields(next((field for field in _PROMPTS if field in found), ""))
    return _READ[convention]


def _candidate_fields(asked: str) -> tuple[str, ...]:
    return (asked, *(("input",) if asked == "instruction" else ()), "completions")


def _reading(name: PreferenceConvention, fields: Sequence[str], found: Mapping[str, str]) -> PreferenceReading:
    read = (*fields, *_SHARED)
    return PreferenceReading(name, {field: column for field, column in found.items() if field in read})


def _is_conversation(value: Any) -> bool:
    turns = objects(value) if not isinstance(value, str) or value.lstrip().startswith("[") else None
    return bool(turns) and any(key in turn for turn in turns or () for key in (*ROLE_KEYS, *CONTENT_KEYS))


def _is_pair(value: Any) -> bool:
    return isinstance(value, Mapping) and "chosen" in value and "rejected" in value


def _is_several(value: Any) -> bool:
    value = structure(value)
    return isinstance(value, (list, tuple)) or (
        isinstance(value, Mapping) and any(isinstance(column, list) for column in value.values())
    )


def _nothing_fits(records: Sequence[Mapping[str, Any]], found: Mapping[str, str], where: str) -> str:
    columns = all_columns(records)
    if {"jpg_0", "jpg_1"} <= set(columns) or {"chosen_image", "rejected_image"} <= set(columns):
        return f"{where} holds pairs of images, and only pairs of texts are learnt; its columns are {columns}"
    if "caption" in columns and "chosen" in found:
        return (
            f"{where} holds pairs of images or videos for a caption, and only pairs of texts are learnt; if 'chosen' "
            "and 'rejected' are texts, set data.columns.question to caption"
        )
    if "chosen" in found and "rejected" not in found and "rejected" in columns:
        return (
            f"{where} has nothing in the column 'rejected' of its first {len(records)} records: these are prompts "
            "without a second half; give data with both halves"
        )
    if "chosen" in found and "rejected" in found:
        return (
            f"{where} has texts in {found['chosen']!r} and {found['rejected']!r} and no column that says what was "
            f"asked; name it with data.columns.prompt. The columns are {columns}"
        )
    if "completions" in found:
        return (
            f"{where} has completions in {found['completions']!r} and no column that says what was asked; name it with "
            f"data.columns.prompt. The columns are {columns}"
        )
    if "messages" in found or "completion" in columns or "answer" in columns:
        return (
            f"{where} holds one completion a record, and preferences need two: its columns are {columns}; name them "
            "with data.columns.chosen and data.columns.rejected, or serve the data with ChatDataModule"
        )
    return (
        f"{where}: no known convention of preferences fits its columns {columns}; name them, e.g. data.columns.prompt, "
        "data.columns.chosen and data.columns.rejected, or data.columns.completions"
    )
