"""Finds out by which convention records are written, from the first of them, by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_vlm.data.records.columns import ColumnNames, all_columns, find_columns
from lit_vlm.data.records.structured_values import is_empty, objects, structure
from lit_vlm.data.records.turns import ROLE_KEYS
from lit_vlm.interfaces.errors import UserError

Convention = Literal[
    "llava", "sharegpt", "messages", "openai", "swift", "prompt_completion", "question_answer", "alpaca", "verl"
]
Layout = Literal["turns", "prompt_completion", "question_answer", "alpaca"]

TITLES: dict[str, str] = {
    "llava": "LLaVA conversations",
    "sharegpt": "ShareGPT conversations",
    "messages": "messages with images",
    "openai": "OpenAI chat messages",
    "swift": "ms-swift messages",
    "prompt_completion": "prompts and completions",
    "question_answer": "questions and answers",
    "alpaca": "Alpaca instructions",
    "verl": "verl prompts with a ground truth",
}
_LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(("llava", "sharegpt", "messages", "openai", "swift"), "turns"),
    **dict.fromkeys(("prompt_completion", "verl"), "prompt_completion"),
    "question_answer": "question_answer",
    "alpaca": "alpaca",
}
GROUND_TRUTH = "reward_model"
"""Column of verl in which the ground truth lies."""
# Fields that each layout reads beside those that all have.
_READ: dict[Layout, tuple[str, ...]] = {
    "turns": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "question_answer": ("question", "completion"),
    "alpaca": ("instruction", "input", "completion"),
}
_SHARED = ("answer", "images", "videos", "options", "system", "objects", "id", "source", "category", "difficulty")
# Names that mean an answer beside a question, and something else (a class, a preference) beside a conversation.
_ONLY_WITH_QUESTIONS = ("label", "answers")


@dataclass(frozen=True)
class Reading:
    """How the records of a data set are read."""

    convention: str
    columns: Mapping[str, str]
    """Column by field, for the fields that are read."""

    @property
    def layout(self) -> Layout:
        """Which columns hold the conversation."""
        return _LAYOUTS[self.convention]

    def describe(self) -> str:
        """Says it in one line, for the log."""
        text = [repr(self.columns[field]) for field in _READ[self.layout] if field in self.columns]
        named = [f"text from {' and '.join(text)}"]
        for field in ("images", "videos", "answer", "options", "system", "objects", "category", "difficulty"):
            if field in self.columns:
                named.append(f"{field} from {self.columns[field]!r}")
        return f"{TITLES[self.convention]}: {', '.join(named)}"


def detect(
    records: Sequence[Mapping[str, Any]],
    names: ColumnNames,
    convention: Convention | None = None,
    where: str = "the data",
) -> Reading:
    """Decides how to read records.

    Args:
        records: The first of them, by column.
        names: Columns that the user names.
        convention: The convention, where the user says so.
        where: What is read, for messages.

    Raises:
        UserError: Nothing fits, or two things do.
    """
    found = find_columns(records, names)
    if names.objects is None and not any(_is_grounding(record.get(found.get("objects", ""))) for record in records):
        found.pop("objects", None)
    if convention is not None:
        layout = _LAYOUTS[convention]
        needed = _READ[layout][0]
        if needed not in found:
            raise UserError(
                f"{where}: data.convention is {convention!r}, which needs a column of {needed}; the columns are "
                f"{all_columns(records)}. Name it with data.columns.{needed}"
            )
        return Reading(convention, _of_layout(layout, found, names))
    candidates = dict(_candidates(records, found))
    said = {field for field in names.given() if any(field in fields for fields in _READ.values())}
    if len(candidates) > 1 and said:
        chosen = {name: fields for name, fields in candidates.items() if said & set(fields)}
        candidates = chosen or candidates
    if len(candidates) > 1:
        shown = " or ".join(
            f"{name} ({', '.join(repr(found[field]) for field in fields)})" for name, fields in candidates.items()
        )
        raise UserError(f"{where} could be read as {shown}; say which with data.convention")
    if not candidates:
        raise UserError(_nothing_found(records, where))
    (name,) = candidates
    return Reading(name, _of_layout(_LAYOUTS[name], found, names))


def _candidates(
    records: Sequence[Mapping[str, Any]], found: dict[str, str]
) -> Iterator[tuple[Convention, tuple[str, ...]]]:
    """Yields the conventions whose columns are there, with the fields that say so."""
    has_truth = "answer" in found or any(not is_empty(record.get(GROUND_TRUTH)) for record in records)
    if "messages" in found:
        yield _kind_of_turns(records, found), ("messages",)
    if "prompt" in found and "completion" in found:
        yield "prompt_completion", ("prompt", "completion")
    elif "prompt" in found and has_truth:
        yield "verl", ("prompt",)
    if "instruction" in found and ("completion" in found or "answer" in found):
        yield "alpaca", ("instruction",)
    if "question" in found and ("completion" in found or has_truth):
        yield "question_answer", ("question",)


def _kind_of_turns(records: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> Convention:
    column = found["messages"]
    turns = [turn for record in records for turn in objects(record.get(column)) or []]
    if any(not is_empty(turn.get("from")) for turn in turns):
        plural = found.get("images") == "images" or found.get("videos") == "videos" or "system" in found
        return "sharegpt" if plural or any("tools" in record for record in records) else "llava"
    parts = [part for turn in turns for part in _parts(turn.get("content"))]
    if any(part.get("type") in ("image_url", "video_url") for part in parts):
        return "openai"
    flagged = any(turn.get(flag) is not None for turn in turns for flag in ("loss", "loss_scale"))
    return "swift" if flagged or "objects" in found else "messages"


def _is_grounding(objects_column: Any) -> bool:
    value = structure(objects_column)
    return isinstance(value, Mapping) and ("bbox" in value or "ref" in value)


def _parts(content: Any) -> list[dict[str, Any]]:
    return (objects(content) or []) if isinstance(structure(content), (list, dict)) else []


def _of_layout(layout: Layout, found: Mapping[str, str], names: ColumnNames) -> dict[str, str]:
    kept = {field: column for field, column in found.items() if field in (*_READ[layout], *_SHARED)}
    if layout != "question_answer" and names.answer is None and kept.get("answer") in _ONLY_WITH_QUESTIONS:
        del kept["answer"]
    return kept


def _nothing_found(records: Sequence[Mapping[str, Any]], where: str) -> str:
    columns = all_columns(records)
    if "chosen" in columns and "rejected" in columns:
        return (
            f"{where} holds preference pairs; serve them to a module that learns pairs with "
            "lit_vlm.data.preference_data_module.PreferenceDataModule, or learn the chosen side alone by setting "
            f"data.columns.completion to chosen. The columns are {columns}"
        )
    if any(key in columns for key in ROLE_KEYS):
        return f"{where} seems to hold single turns, not conversations: its columns are {columns}"
    return (
        f"{where}: no known convention fits its columns {columns}; name them, e.g. data.columns.question and "
        "data.columns.answer, or data.columns.messages"
    )
