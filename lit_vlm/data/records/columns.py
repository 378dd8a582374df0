"""Names of columns: what the user may say of them, and the names that are known without being said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lit_vlm.data.records.structured_values import is_empty, structure
from lit_vlm.interfaces.errors import UserError


@dataclass(frozen=True)
class ColumnNames:
    """Columns of the records; what is not given is found by its usual names."""

    messages: str | None = None
    """Turns of a conversation (usually ``messages`` or ``conversations``)."""
    prompt: str | None = None
    """Text or turns before the completion (``prompt``)."""
    completion: str | None = None
    """What is learnt: text or turns (``completion``, ``response``, ``output``)."""
    question: str | None = None
    """Text of a question (``question``, ``problem``, ``query``)."""
    answer: str | None = None
    """The true answer, to check completions with (``answer``, ``ground_truth``, ``solution``, …)."""
    instruction: str | None = None
    """Instruction of the Alpaca convention (``instruction``)."""
    input: str | None = None
    """Text that follows an Alpaca instruction (``input``)."""
    images: str | None = None
    """One image or several (``images``, ``image``, …)."""
    videos: str | None = None
    """One video or several (``videos``, ``video``, …)."""
    options: str | None = None
    """Texts of the choices (``options``, ``choices``)."""
    system: str | None = None
    """System prompt (``system``, ``system_prompt``)."""
    objects: str | None = None
    """Names and boxes of the ms-swift convention (``objects``)."""
    id: str | None = None
    """Name of the sample (``id``, ``question_id``, …); file and line where there is none."""
    source: str | None = None
    """Where the sample comes from (``data_source``, ``source``, ``dataset``); the file's name where there is none."""
    category: str | None = None
    """Task of the sample, by which figures are reported; only read where it is named here."""
    difficulty: str | None = None
    """Level of the sample, a whole number; only read where it is named here."""
    role: str | None = None
    """Key of the role in a turn (``role`` or ``from``)."""
    content: str | None = None
    """Key of the text in a turn (``content`` or ``value``)."""

    def given(self) -> dict[str, str]:
        """Returns those that the user has named, the keys within turns aside."""
        names = {field.name: getattr(self, field.name) for field in fields(self)}
        return {field: name for field, name in names.items() if name is not None and field not in ("role", "content")}


ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt",),
    "completion": ("completion", "response", "output", "target"),
    "question": ("question", "problem", "query"),
    "answer": (
        "answer", "ground_truth", "gt", "gt_answer", "correct_answer", "correct_choice", "answer_key", "final_answer",
        "label", "answers",
    ),
    "instruction": ("instruction",),
    "input": ("input",),
    "images": ("images", "image", "image_path", "image_paths", "image_file", "decoded_image", "img"),
    "videos": ("videos", "video", "video_path"),
    "options": ("options", "choices"),
    "system": ("system", "system_prompt"),
    "objects": ("objects",),
    "id": ("id", "sample_id", "question_id", "uid"),
    "source": ("data_source", "source", "dataset"),
}  # fmt: skip
"""Usual names of each field, first choice first."""
# Either of two names will do where the values differ: they only name the sample.
_HARMLESS = ("id", "source")


def find_columns(
    records: Sequence[Mapping[str, Any]],
    names: ColumnNames,
    aliases: Mapping[str, Sequence[str]] = ALIASES,
) -> dict[str, str]:
    """Finds the column of each field among the first records.

    Args:
        records: Their columns by name.
        names: What the user says, which wins.
        aliases: Usual names of each field, first choice first.

    Returns:
        Column by field, for the fields that there are.

    Raises:
        UserError: A column that the user names is in no record, or two usual names of one field hold different values.
    """
    present = list(dict.fromkeys(name for record in records for name, value in record.items() if not is_empty(value)))
    found = {}
    for field, column in names.given().items():
        if not any(column in record for record in records):
            raise UserError(f"data.columns.{field} is {column!r}, but the columns are {sorted(all_columns(records))}")
        found[field] = column
    taken = set(found.values())
    for field, known in aliases.items():
        if field not in found:
            usual = [alias for alias in known if alias in present and alias not in taken]
            if usual:
                found[field] = usual[0]
                _refuse_two(field, usual, records)
    _place_solution(found, present, taken)
    return found


def all_columns(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists the columns of the records, in the order they are met."""
    return list(dict.fromkeys(name for record in records for name in record))


def _refuse_two(field: str, usual: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    if field in _HARMLESS:
        return
    first = usual[0]
    for other in usual[1:]:
        for record in records:
            if is_empty(record.get(first)) or is_empty(record.get(other)):
                continue
            if field == "images" and _is_image(record[first]) and isinstance(record[other], str):
                continue  # the path from which the image was taken
            if _comparable(record[first]) != _comparable(record[other]):
                raise UserError(
                    f"the columns {first!r} and {other!r} could both be the {field} and differ; "
                    f"say which with data.columns.{field}"
                )


def _is_image(value: Any) -> bool:
    return isinstance(value, (Mapping, bytes))


def _comparable(value: Any) -> str:
    value = structure(value)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return json.dumps(value, sort_keys=True, default=repr)


def _place_solution(found: dict[str, str], present: Sequence[str], taken: set[str]) -> None:
    """A ``solution`` beside an answer is a worked one, to be learnt; alone it is the answer."""
    if "solution" in present and "solution" not in taken:
        if "answer" not in found:
            found["answer"] = "solution"
        elif "completion" not in found and "question" in found:
            found["completion"] = "solution"
