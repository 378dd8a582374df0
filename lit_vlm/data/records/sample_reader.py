"""Turns records of one data set into canonical samples."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lit_vlm.data.records.answer_places import AnswerSource, is_free_text
from lit_vlm.data.records.conventions import GROUND_TRUTH, Reading
from lit_vlm.data.records.grounding import fill_objects
from lit_vlm.data.records.media_references import MediaRoots, image_reference, media_list, video_reference
from lit_vlm.data.records.placeholders import PlacedMedia, place_media
from lit_vlm.data.records.record import Record
from lit_vlm.data.records.sample_checks import CLIPPED_BOXES, check_sample, clip_boxes
from lit_vlm.data.records.structured_values import is_empty, objects, structure
from lit_vlm.data.records.turns import ROLE_KEYS, Turn, plain_text, read_turns, text_turn
from lit_vlm.data.records.typed_answers import has_broken_escapes, read_answer, read_options
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import (
    Answer,
    AnswerType,
    CoordinateSpace,
    MediaRef,
    Message,
    Sample,
    SampleMeta,
    VideoRef,
)
from lit_vlm.parsing.answer_places import find_answer

BROKEN_ESCAPES = "control characters where LaTeX seems meant (left as they are)"
REPAIRS = "repairs"
"""Key of ``meta.extra`` under which the mends of a sample are named."""
_INLINE_OPTIONS = re.compile(r"^\s*\(?A[).:]\s", re.MULTILINE)


@dataclass(frozen=True)
class SampleReader:
    """Reads samples out of records.

    Args:
        reading: Convention and columns.
        role_key: Key of the role in a turn, None for the usual ones.
        content_key: Key of the text in a turn, None for the usual ones.
        media_root: Folder of the media, None for that of the data file.
        roots: Folder for each beginning of a media path.
        train_on: Which assistant turns are learnt where a record does not say.
        prepend_missing: Whether media without a placeholder are shown first where others have one.
        answer_type: Type of all answers, ``none`` to leave them out, None to tell it from each value.
        coordinates: Space of boxes and points.
        answer_source: Where answers stand in completions, and whether these say what the answer is.
        max_image_pixels: Largest image.
        max_video_seconds: Longest video.
        max_media_bytes: Longest file of an image or video.
        needs_completion: Whether a sample must end with something to learn.
    """

    reading: Reading
    role_key: str | None = None
    content_key: str | None = None
    media_root: Path | None = None
    roots: Mapping[str, Path] = field(default_factory=dict)
    train_on: Literal["all", "last"] = "all"
    prepend_missing: bool = True
    answer_type: AnswerType | Literal["none"] | None = None
    coordinates: CoordinateSpace | None = None
    answer_source: AnswerSource = AnswerSource()
    max_image_pixels: int | None = None
    max_video_seconds: float | None = None
    max_media_bytes: int | None = None
    needs_completion: bool = True

    def __call__(self, record: Record) -> Sample:
        """Reads one sample.

        Raises:
            BadSampleError: The record does not hold what its convention asks for.
        """
        try:
            return self._read(record)
        except BadSampleError:
            raise
        except UserError as fault:
            raise BadSampleError(record.origin, str(fault)) from fault

    def content(self, record: Record) -> bytes:
        """Writes what a record says and shows: records that must not be parted give equal bytes."""
        return asked_and_answered(record, self.reading)

    def _read(self, record: Record) -> Sample:
        options = read_options(self._get(record, "options"))
        turns, question = self._turns(record, options)
        turns, boxes = fill_objects(turns, self._get(record, "objects"))
        placed = place_media(
            turns,
            media_list(self._get(record, "images")),
            media_list(self._get(record, "videos")),
            prepend_missing=self.prepend_missing,
        )
        images, videos = self._references(record, placed)
        repairs = list(placed.repairs)
        asked = question or _last_question(turns)
        answer = self._placed(self._answer(record, asked, options) or boxes, asked, turns)
        if answer is not None:
            answer, clipped = clip_boxes(answer)
            repairs += [CLIPPED_BOXES] if clipped else []
        messages = self._marked(turns, placed.messages)
        if any(has_broken_escapes(message.text) for message in messages if message.role == "assistant"):
            repairs.append(BROKEN_ESCAPES)
        file_and_place = record.origin.removeprefix(f"{record.folder}/")
        name = self._get(record, "id")
        source = self._get(record, "source")
        category = self._get(record, "category")
        sample = Sample(
            id=file_and_place if is_empty(name) else str(name),
            messages=messages,
            images=images,
            videos=videos,
            answer=answer,
            meta=SampleMeta(
                source=Path(file_and_place.rpartition(", ")[0]).stem if is_empty(source) else str(source),
                category="" if is_empty(category) else str(category),
                difficulty=self._difficulty(record),
                origin=record.origin,
                extra={**self._extra(record), **({REPAIRS: tuple(repairs)} if repairs else {})},
            ),
        )
        check_sample(sample, needs_completion=self.needs_completion)
        return sample

    def _get(self, record: Record, name: str) -> Any:
        column = self.reading.columns.get(name)
        return None if column is None else record.values.get(column)

    def _difficulty(self, record: Record) -> int | None:
        value = self._get(record, "difficulty")
        if is_empty(value):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not number.is_integer():
            raise UserError(f"its column {self.reading.columns['difficulty']!r} holds {value!r}, not a whole number")
        return int(number)

    def _turns(self, record: Record, options: tuple[str, ...]) -> tuple[list[Turn], str]:
        """Reads the conversation with its system turn, and the text of the question where that is a column."""
        turns, question = self._conversation(record, options)
        system = self._get(record, "system")
        if not is_empty(system) and not any(turn.role == "system" for turn in turns):
            turns = [text_turn("system", system), *turns]
        return turns, question

    def _conversation(self, record: Record, options: tuple[str, ...]) -> tuple[list[Turn], str]:
        question = ""
        match self.reading.layout:
            case "turns":
                turns = read_turns(self._wanted(record, "messages"), self.role_key, self.content_key)
            case "prompt_completion":
                turns = self._turns_of(self._wanted(record, "prompt"), "user")
                completion = self._get(record, "completion")
                if self.needs_completion and "completion" not in self.reading.columns:
                    _refuse_prompt_alone(turns)
                turns += [] if is_empty(completion) else self._turns_of(completion, "assistant")
            case "alpaca":
                question = self._instruction(record)
                turns = [*history_turns(record.values.get("history")), text_turn("user", question)]
                turns += self._completion(record, question, options)
            case _:
                question = plain_text(self._wanted(record, "question"))
                if options and not _INLINE_OPTIONS.search(question):
                    lettered = (f"{chr(ord('A') + index)}. {option}" for index, option in enumerate(options))
                    question = "\n".join([question, *lettered])
                turns = [text_turn("user", question), *self._completion(record, question, options)]
        return turns, question

    def _instruction(self, record: Record) -> str:
        instruction, more = plain_text(self._wanted(record, "instruction")), self._get(record, "input")
        return instruction if is_empty(more) else f"{instruction}\n{plain_text(more)}"

    def _wanted(self, record: Record, name: str) -> Any:
        value = self._get(record, name)
        if is_empty(value):
            raise UserError(f"its column {self.reading.columns[name]!r} is empty or missing")
        return value

    def _turns_of(self, value: Any, role: Literal["user", "assistant"]) -> list[Turn]:
        read = objects(value) if not isinstance(value, str) or value.lstrip().startswith("[") else None
        keys = (self.role_key,) if self.role_key else ROLE_KEYS
        if read and any(key in read[0] for key in keys):
            return read_turns(read, self.role_key, self.content_key)
        if isinstance(value, (list, dict)):
            return read_turns(value, self.role_key, self.content_key)
        return [text_turn(role, value)]

    def _completion(self, record: Record, question: str, options: tuple[str, ...]) -> list[Turn]:
        """Makes the assistant's turn: the completion, or the answer where that is all there is."""
        completion = self._get(record, "completion")
        if not is_empty(completion):
            return self._turns_of(completion, "assistant")
        raw = self._raw_answer(record)
        if is_empty(raw):
            if self.needs_completion:
                columns = [repr(self.reading.columns[n]) for n in ("completion", "answer") if n in self.reading.columns]
                named = f"its column {' and '.join(columns)}" if columns else "its answer"
                raise UserError(f"there is nothing to learn: {named} is empty or missing")
            return []
        answer = self._answer(record, question, options)
        if answer is not None and answer.type in ("choice", "multi_choice") and options:
            letters = answer.value if isinstance(answer.value, list) else [answer.value]
            return [text_turn("assistant", ", ".join(letters))]
        raw = structure(raw)
        if isinstance(raw, list) and raw and all(isinstance(item, str) for item in raw):
            raw = raw[0]  # several accepted strings: the first is the reference
        return [text_turn("assistant", raw)]

    def _raw_answer(self, record: Record) -> Any:
        value = self._get(record, "answer")
        if is_empty(value) and "answer" not in self.reading.columns:
            reward = structure(record.values.get(GROUND_TRUTH))
            value = reward.get("ground_truth") if isinstance(reward, Mapping) else None
        return value

    def _answer(self, record: Record, question: str, options: tuple[str, ...]) -> Answer | None:
        if self.answer_type == "none":
            return None
        return read_answer(
            self._raw_answer(record),
            question=question,
            options=options,
            answer_type=self.answer_type,
            coordinates=self.coordinates,
        )

    def _placed(self, answer: Answer | None, question: str, turns: list[Turn]) -> Answer | None:
        """Says of an answer where it stands, and takes it out of the completion where that alone has it."""
        place = self.answer_source.place
        if place == "none" or self.answer_type == "none":
            return None
        if answer is None and self.answer_source.from_completions and turns[-1].role == "assistant":
            completion = "".join(part for part in turns[-1].parts if isinstance(part, str))
            answer = read_answer(
                find_answer(completion, place),
                question=question,
                answer_type=self.answer_type,
                coordinates=self.coordinates,
            )
        if answer is None or (place == "whole" and self.answer_type is None and is_free_text(answer)):
            return None
        return replace(answer, place=place)

    def _references(self, record: Record, placed: PlacedMedia) -> tuple[tuple[MediaRef, ...], tuple[VideoRef, ...]]:
        roots = MediaRoots(
            default=record.media_folder or self.media_root or record.folder,
            prefixes=self.roots,
            max_image_pixels=self.max_image_pixels,
            max_video_seconds=self.max_video_seconds,
            max_media_bytes=self.max_media_bytes,
        )
        images = tuple(image_reference(value, roots) for value in placed.images)
        return images, tuple(video_reference(value, roots) for value in placed.videos)

    def _marked(self, turns: list[Turn], messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Marks the assistant turns that are learnt: as the record says, or as ``train_on`` does."""
        last = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
        return tuple(
            replace(message, train=(self.train_on == "all" or index == last) if turn.train is None else turn.train)
            if turn.role == "assistant"
            else replace(message, train=False)
            for index, (turn, message) in enumerate(zip(turns, messages, strict=True))
        )

    def _extra(self, record: Record) -> dict[str, Any]:
        """Keeps the columns that nothing else reads, media aside."""
        used = {*self.reading.columns.values(), GROUND_TRUTH, "history"}
        rest = {
            name: value
            for name, value in record.values.items()
            if name not in used and not is_empty(value) and not _holds_bytes(value)
        }
        raw = self._raw_answer(record)
        return rest if is_empty(raw) else {**rest, "raw_answer": raw}


def _refuse_prompt_alone(turns: list[Turn]) -> None:
    if turns[-1].role != "assistant":
        raise UserError(
            "there is a prompt and no completion to learn; name the column of the completions with "
            "data.columns.completion (a true answer alone serves to validate and test)"
        )


def _last_question(turns: list[Turn]) -> str:
    questions = [turn for turn in turns if turn.role == "user"]
    return "".join(part for part in questions[-1].parts if isinstance(part, str)) if questions else ""


def history_turns(value: Any) -> list[Turn]:
    """Reads the earlier turns of an Alpaca record.

    Raises:
        UserError: They are no list of pairs.
    """
    value = structure(value)
    if is_empty(value):
        return []
    if not isinstance(value, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        raise UserError(f"the history must be a list of pairs [question, answer], not {str(value)[:60]!r}")
    return [turn for asked, said in value for turn in (text_turn("user", asked), text_turn("assistant", said))]


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, (bytes, bytearray)):
        return True
    if isinstance(value, Mapping):
        return any(map(_holds_bytes, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_bytes, value))


def asked_and_answered(record: Record, reading: Reading) -> bytes:
    """Writes what a record says and shows, without its name, so that equal samples give equal bytes.

    Empty keys within a value do not count: Arrow gives every turn and part all keys.
    """
    fields = [field for field in reading.columns if field not in ("id", "source", "category", "difficulty")]
    values = {name: record.values.get(reading.columns[name]) for name in sorted(fields)}
    values[GROUND_TRUTH] = record.values.get(GROUND_TRUTH)
    values = {name: _without_empty(value) for name, value in values.items()}
    return json.dumps(values, sort_keys=True, default=_as_text).encode("utf-8", "surrogatepass")


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_empty(inner) for name, inner in value.items() if inner is not None}
    return [_without_empty(item) for item in value] if isinstance(value, (list, tuple)) else value


def _as_text(value: Any) -> str:
    return value.hex() if isinstance(value, (bytes, bytearray)) else repr(value)
