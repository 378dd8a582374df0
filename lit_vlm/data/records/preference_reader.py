"""Turns records of pairs, or of graded completions, into canonical samples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_vlm.data.records.graded_completions import read_candidates
from lit_vlm.data.records.media_references import media_list
from lit_vlm.data.records.placeholders import ASSISTANT_PLACEHOLDER, PlacedMedia
from lit_vlm.data.records.preference_conventions import MIXTURE_ENTRY, PreferenceReading
from lit_vlm.data.records.preference_halves import Halves, completion_messages, has_placeholder, part_halves
from lit_vlm.data.records.record import Record
from lit_vlm.data.records.sample_reader import REPAIRS, SampleReader, history_turns
from lit_vlm.data.records.structured_values import is_empty, structure
from lit_vlm.data.records.turns import Turn, read_turns, text_turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, Message, Preference, Sample, VideoRef

SAME_HALVES = "both halves are the same"
NO_HALF = "one half is missing"
IMAGE_ID = "image_id"
"""Column with the number of an image of Visual Genome, whose file is named by it."""
IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")
"""Folders into which the images of Visual Genome are unpacked."""
_SCORE_PAIRS = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
_CORRECTED = "RLHF-V"


@dataclass(frozen=True)
class PreferenceReader(SampleReader):
    """Reads samples that end on a question, with a pair of completions or several graded ones.

    Args:
        reading: Convention and columns.
        image_folders: Folders below the media root in which images named without a folder are looked for, after the
            root itself; None for those of Visual Genome.
    """

    reading: PreferenceReading
    image_folders: tuple[str, ...] | None = None

    @property
    def holds_pairs(self) -> bool:
        """Whether records hold pairs, and not graded completions."""
        return self.reading.holds_pairs

    def reason_to_leave_out(self, record: Record) -> str | None:
        """Says why nothing can be learnt from a record that is not wrong: its halves are equal, or one is null."""
        if not self.holds_pairs:
            return None
        try:
            halves = self._halves(record)
        except UserError:
            return None  # it is reported when it is read
        if halves is None:
            return NO_HALF
        return SAME_HALVES if halves.are_the_same else None

    def content(self, record: Record) -> bytes:
        """Writes what a record asks and shows, so that pairs of one prompt are not parted."""
        try:
            turns = self._turns(record, ())[0]
        except UserError:
            return super().content(record)
        media = [media_list(self._get(record, name)) for name in ("images", "videos")]
        asked = [[turn.role, *map(_plain, turn.parts)] for turn in turns]
        return json.dumps([asked, _plain(media)], sort_keys=True).encode("utf-8", "surrogatepass")

    def _read(self, record: Record) -> Sample:
        sample = super()._read(record)
        if sample.messages[-1].role not in ("user", "tool"):
            raise UserError(
                f"the prompt ends with a turn of role {sample.messages[-1].role!r}; it must end with the user's"
            )
        extra, repairs = dict(sample.meta.extra), [*sample.meta.extra.get(REPAIRS, ())]
        if not self.holds_pairs:
            candidates, mends = read_candidates(self._wanted(record, "completions"))
            repairs += mends
            sample = replace(sample, candidates=candidates)
            texts = [candidate.messages for candidate in candidates]
        else:
            preference = self._preference(record)
            sample = replace(sample, preferences=(preference,))
            texts = [preference.chosen, preference.rejected]
            extra |= self._about_pair(record)
        if any(map(has_placeholder, texts)):
            repairs.append(ASSISTANT_PLACEHOLDER)
        if repairs:
            extra[REPAIRS] = tuple(dict.fromkeys(repairs))
        return replace(sample, meta=replace(sample.meta, extra=extra))

    def _preference(self, record: Record) -> Preference:
        halves = self._halves(record)
        if halves is None or halves.are_the_same:
            reason = NO_HALF if halves is None else SAME_HALVES
            raise UserError(f"{reason}, so that there is nothing to learn from it; remove the record")
        return Preference(
            completion_messages("chosen", halves.chosen),
            completion_messages("rejected", halves.rejected),
            weight=self._weight(record),
        )

    def _conversation(self, record: Record, options: tuple[str, ...]) -> tuple[list[Turn], str]:
        if self.holds_pairs:
            halves = self._halves(record)
            if halves is None:
                raise UserError(f"{NO_HALF}, so that there is nothing to learn from it; remove the record")
            return halves.prompt, ""
        return self._prompt(record) or [], ""

    def _halves(self, record: Record) -> Halves | None:
        """The prompt and both completions; None where one of these is null."""
        prompt: list[Turn] | None
        match self.reading.convention:
            case "rlhf_v":
                prompt, chosen, rejected = self._of_text(record)
            case "swift_pairs":
                prompt, chosen, rejected = self._of_messages(record)
            case _:
                chosen, rejected = self._get(record, "chosen"), self._get(record, "rejected")
                prompt = None if _is_null(chosen) or _is_null(rejected) else self._prompt(record)
        if _is_null(chosen) or _is_null(rejected):
            return None
        return part_halves(prompt, self._half("chosen", chosen), self._half("rejected", rejected))

    def _of_text(self, record: Record) -> tuple[list[Turn], Any, Any]:
        text = structure(self._wanted(record, "text"))
        if not isinstance(text, Mapping) or not {"question", "chosen", "rejected"} <= text.keys():
            raise UserError(
                f"its column {self.reading.columns['text']!r} is no JSON object with question, chosen and rejected"
            )
        return [text_turn("user", text["question"])], text["chosen"], text["rejected"]

    def _of_messages(self, record: Record) -> tuple[list[Turn], Any, Any]:
        if not is_empty(record.values.get("rejected_images")):
            raise UserError("its halves show different images (rejected_images), which is not read")
        turns = read_turns(self._wanted(record, "messages"), self.role_key, self.content_key)
        asked = max((number for number, turn in enumerate(turns, 1) if turn.role == "user"), default=0)
        return turns[:asked], turns[asked:], self._get(record, "rejected")

    def _half(self, name: str, value: Any) -> list[Turn]:
        if is_empty(value):
            raise UserError(f"{name} is empty; write the completion, or remove the record")
        if isinstance(value, list) and isinstance(value[0], Turn):
            return value
        return self._turns_of(value, "assistant")

    def _prompt(self, record: Record) -> list[Turn] | None:
        match self.reading.prompt_field:
            case None:
                return None
            case "messages":
                return read_turns(self._wanted(record, "messages"), self.role_key, self.content_key)
            case "instruction":
                asked = text_turn("user", self._instruction(record))
                return [*history_turns(record.values.get("history")), asked]
            case field:
                return self._turns_of(self._wanted(record, field), "user")

    def _marked(self, turns: list[Turn], messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Nothing of the prompt is learnt."""
        return tuple(replace(message, train=False) for message in messages)

    def _weight(self, record: Record) -> float:
        value = self._get(record, "weight")
        if is_empty(value):
            return 1.0
        weight = _number(value)
        if weight is None or not 0 <= weight < math.inf:
            raise UserError(f"its column {self.reading.columns['weight']!r} holds {value!r}; give a number from 0 on")
        return weight

    def _about_pair(self, record: Record) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for names in _SCORE_PAIRS:
            scores = [_number(record.values.get(name)) for name in names]
            if scores[0] is not None and scores[1] is not None:
                found["margin"] = scores[0] - scores[1]
        if self.reading.convention == "rlhf_v" or record.values.get("ds_name") == _CORRECTED:
            found["diff"] = True  # chosen is rejected with corrections: most of their tokens are the same
        if not is_empty(record.values.get(IMAGE_ID)):
            found["group"] = str(record.values[IMAGE_ID])
        return found

    def _extra(self, record: Record) -> dict[str, Any]:
        return {name: value for name, value in super()._extra(record).items() if name != MIXTURE_ENTRY}

    def _get(self, record: Record, name: str) -> Any:
        value = super()._get(record, name)
        if name == "images" and is_empty(value) and not is_empty(record.values.get(IMAGE_ID)):
            number = str(record.values[IMAGE_ID])
            return number if Path(number).suffix else f"{number}.jpg"
        return value

    def _references(self, record: Record, placed: PlacedMedia) -> tuple[tuple[MediaRef, ...], tuple[VideoRef, ...]]:
        images = [self._searched(image, record) for image in placed.images]
        return super()._references(record, replace(placed, images=images))

    def _searched(self, image: Any, record: Record) -> Any:
        """Finds the folder of an image that is named without one."""
        if not isinstance(image, str) or Path(image).name != image:
            return image
        root = record.media_folder or self.media_root or record.folder
        folders = IMAGE_FOLDERS if self.image_folders is None else self.image_folders
        for folder in ("", *folders):
            if (root / folder / image).is_file():
                return str(Path(folder) / image)
        if self.image_folders is None and is_empty(record.values.get(IMAGE_ID)):
            return image
        raise UserError(
            f"there is no image {image!r} in {str(root)!r} or its folders {', '.join(folders)}; set data.media_root to "
            "the folder that holds them, or name them in data.image_folders"
        )


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or is_empty(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _plain(value: Any) -> Any:
    """A value that JSON can write, without the empty keys that Arrow adds."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return value if isinstance(value, (str, int, float)) else repr(value)
