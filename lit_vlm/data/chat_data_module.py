"""Serves the user's own data: JSON, JSON Lines, Parquet and saved data sets, in any of the usual conventions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy
from lightning.pytorch.utilities import rank_zero_info

from lit_vlm.data.records.answer_places import WORDS, AnswerSource, tell_source
from lit_vlm.data.records.columns import ColumnNames
from lit_vlm.data.records.conventions import Convention, detect
from lit_vlm.data.records.json_lines import LONGEST_RECORD
from lit_vlm.data.records.record_files import RecordFiles, find_files, open_records
from lit_vlm.data.records.record_samples import (
    RecordSamples,
    first_readable,
    review,
    shown_faults,
    some_readable,
    split_off,
)
from lit_vlm.data.records.sample_reader import SampleReader
from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import AnswerPlace, AnswerType, CoordinateSpace, Split
from lit_vlm.interfaces.roles import SampleEncoder

Files = str | list[str]
REVIEWED = 256
"""Records of a split that are looked at when it is opened."""
COMPARED = 64
"""Samples by whose completions it is told where answers stand."""


class ChatDataModule(VLMDataModule):
    """Serves conversations, questions and answers, or instructions with images and videos from files.

    The convention and the columns are told from the first records and stated when a split is opened; what is said here
    wins. Records are read when a worker needs them; media are decoded there, once.

    Args:
        train: File, folder, pattern or ``save_to_disk`` folder of the training records, or a list of these.
        encoder: Encodes for the model; the command line fills it in from ``model``.
        validation: Files of the validation records; None takes ``validation_share`` of the training records.
        test: Files of the test records.
        validation_share: Share of the training records kept for validation, by a hash of their content.
        max_samples: Most samples of a split, the first of them; None for all.
        media_root: Folder that media paths start from and may not leave; None for the folder of the data file.
        roots: Folder for each beginning of a media path, e.g. ``{coco/: /data/coco}``.
        convention: How the records are written; None tells it from their columns.
        columns: Names of columns that differ from the usual ones.
        train_on: Assistant turns that are learnt where a record has no marks of its own: all, or the last.
        prepend_missing: Shows media without a placeholder first where other media have one; false makes it an error.
        answer_type: Type of all answers; ``none`` leaves them out, None tells it from each value.
        answer_place: Where validation and test look for a completion's answer: ``tags`` (``<answer></answer>``),
            ``boxed``, ``stated`` ("the answer is …", "Answer: …", "#### …"), ``whole`` (the completion itself), ``any``
            of these, or ``none`` to check no answers. None tells it from the training completions; where these are free
            text, answers are not checked.
        coordinates: Space of boxes and points in answers: pixel, norm1 (0 to 1) or norm1000.
        max_image_pixels: Most pixels of an image; None for the reader's own limit, about 89 million.
        max_video_seconds: Longest video; None for the reader's own limit, three hours.
        max_media_bytes: Most bytes of a media file; None for the reader's own limits, 256 MiB for an image and 16 GiB
            for a video.
        longest_record: Most bytes of a JSON record; a row of a columnar file, which may hold images, has four times as
            many.
        check_media: Whether to look at all records and for all their media files when a split is opened, instead of
            at 256 of them, evenly spaced.
        options: As for every DataModule.

    Raises:
        UserError: An option is out of its range; or, when a split is opened, its files are missing or empty, or follow
            no one convention, or hold a bad sample that may not be left out.
    """

    def __init__(
        self,
        train: Files | None = None,
        encoder: SampleEncoder | None = None,
        *,
        validation: Files | None = None,
        test: Files | None = None,
        validation_share: float = 0.02,
        max_samples: int | None = None,
        media_root: str | None = None,
        roots: dict[str, str] | None = None,
        convention: Convention | None = None,
        columns: ColumnNames | None = None,
        train_on: Literal["all", "last"] = "all",
        prepend_missing: bool = True,
        answer_type: AnswerType | Literal["none"] | None = None,
        answer_place: AnswerPlace | Literal["none"] | None = None,
        coordinates: CoordinateSpace | None = None,
        max_image_pixels: int | None = None,
        max_video_seconds: float | None = None,
        max_media_bytes: int | None = None,
        longest_record: int = LONGEST_RECORD,
        check_media: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(encoder, **options)
        if not 0 <= validation_share < 1:
            raise UserError(f"data.validation_share is {validation_share}; give a share from 0 to below 1")
        limits = {
            "max_samples": max_samples,
            "max_image_pixels": max_image_pixels,
            "max_video_seconds": max_video_seconds,
            "max_media_bytes": max_media_bytes,
            "longest_record": longest_record,
        }
        for name, limit in limits.items():
            if limit is not None and limit <= 0:
                raise UserError(f"data.{name} is {limit}; give a number above 0")
        for name, value, known in (
            ("convention", convention, get_args(Convention)),
            ("train_on", train_on, ("all", "last")),
            ("answer_type", answer_type, (*get_args(AnswerType), "none")),
            ("answer_place", answer_place, tuple(WORDS)),
            ("coordinates", coordinates, get_args(CoordinateSpace)),
        ):
            if value is not None and value not in known:
                raise UserError(f"data.{name} is {value!r}; choose one of {', '.join(known)}")
        self.files: dict[Split, Files | None] = {"train": train, "validation": validation, "test": test}
        self.validation_share = validation_share
        self.max_samples = max_samples
        self.longest_record = longest_record
        self.check_media = check_media
        self.convention = convention
        self.columns = columns or ColumnNames()
        self.answer_type = answer_type
        self.answer_place = answer_place
        self._answer_source: AnswerSource | None = None
        self._media_root = None if media_root is None else _folder(media_root, "data.media_root")
        self._reading_options: dict[str, Any] = {
            "role_key": self.columns.role,
            "content_key": self.columns.content,
            "media_root": self._media_root,
            "roots": {prefix: _folder(folder, f"data.roots.{prefix}") for prefix, folder in (roots or {}).items()},
            "train_on": train_on,
            "prepend_missing": prepend_missing,
            "answer_type": answer_type,
            "coordinates": coordinates,
            "max_image_pixels": max_image_pixels,
            "max_video_seconds": max_video_seconds,
            "max_media_bytes": max_media_bytes,
        }
        self._opened: dict[Split, RecordSamples] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The values of the column ``columns.category`` among the samples that are evaluated; none without it."""
        return () if self.columns.category is None else self._evaluated_categories()

    def _evaluated_categories(self) -> tuple[str, ...]:
        splits: list[Split] = ["test"] if self.files["test"] is not None else []
        if self._has_validation:
            splits.append("validation")
        found: dict[str, None] = {}
        for split in splits:
            found.update(dict.fromkeys(self.samples(split).categories()))
        return tuple(sorted(found))

    def samples(self, split: Split) -> RecordSamples:
        """Opens a split, once, and states how it is read.

        Raises:
            UserError: No files are given for it, they hold nothing, or no convention fits.
        """
        if split not in self._opened:
            if self.files[split] is not None:
                self._open_files(split)
            elif split == "validation" and self.files["train"] is not None and self.validation_share > 0:
                self.samples("train")
            else:
                also = " or data.validation_share, or trainer.limit_val_batches 0" if split == "validation" else ""
                raise UserError(f"there are no {split} data; set data.{split} to a file or folder{also}")
        return self._opened[split]

    def _open_files(self, split: Split) -> None:
        option = f"data.{split}"
        records = self._records(self.files[split] or [], option)
        reader = self._reader(records, split)
        described = f"{option}: reads {records.name} ({_count(len(records), 'record')})"
        rank_zero_info(f"{described} as {reader.reading.describe()}")
        reader = replace(reader, answer_source=self._source(split, records, reader))
        kept = self._kept(records, reader, option)
        if split == "train" and self.files["validation"] is None and self.validation_share > 0:
            parted = split_off(records, reader.content, self.validation_share)
            rest, off = (part if kept is None else numpy.intersect1d(part, kept) for part in parted)
            if len(rest) == 0 or len(off) == 0:
                empty = "training" if len(rest) == 0 else "validation"
                raise UserError(
                    f"{option}: of {_count(len(records), 'record')} none is left for {empty} with "
                    f"data.validation_share {self.validation_share}; change it, or set data.validation"
                )
            rank_zero_info(f"{option}: {_count(len(off), 'record')} of these are kept for validation")
            evaluated = replace(reader, needs_completion=False)
            self._opened["validation"] = self._cut(RecordSamples(records, evaluated, off))
            opened = RecordSamples(records, reader, rest)
        else:
            opened = RecordSamples(records, reader, kept)
        opened = self._cut(opened)
        self._review(opened, option)
        self._opened[split] = opened

    def setup(self, stage: str) -> None:
        """Opens what a stage needs, before weights are loaded.

        Raises:
            UserError: As ``samples``.
        """
        super().setup(stage)
        if stage == "fit":
            self.samples("train")
            if self._has_validation:
                self.samples("validation")
        else:
            self.samples("validation" if stage == "validate" else "test")

    def cache_file(self, name: str) -> Path:
        """Names the file for what is computed once from the data: beside the first file of training records.

        Raises:
            UserError: There is no such file.
        """
        files = self.files["train"] or []
        names = [files] if isinstance(files, str) else files
        if not names:
            return super().cache_file(name)
        records = find_files(names[0], "data.train")[0]
        return records.with_name(f"{records.stem}.{name}")

    def val_dataloader(self) -> Any:
        """Validation batches, in order; none where there is nothing to validate on."""
        return super().val_dataloader() if self._has_validation else []

    @property
    def _has_validation(self) -> bool:
        return self.files["validation"] is not None or (self.files["train"] is not None and self.validation_share > 0)

    def _records(self, files: Files, option: str) -> RecordFiles:
        return open_records(files, option, longest_record=self.longest_record)

    def _kept(self, records: RecordFiles, reader: SampleReader, option: str) -> numpy.ndarray | None:
        """Says which records to read, None for all."""
        return None

    def _reader(self, records: RecordFiles, split: Split) -> SampleReader:
        first = [record.values for record in first_readable(records)]
        reading = detect(first, self.columns, self.convention, records.name)
        needs_completion = split == "train" and not self.serves_prompts
        return SampleReader(reading, needs_completion=needs_completion, **self._reading_options)

    def _source(self, split: Split, records: RecordFiles, reader: SampleReader) -> AnswerSource:
        """Tells where answers stand, once: from the training records where there are any, or else from these."""
        if self.answer_type == "none" or self.answer_place == "none":
            return AnswerSource("none")
        if self._answer_source is None:
            told_by: Split = split
            if split != "train" and self._has_train_files():
                told_by = "train"
                records = self._records(self.files["train"] or [], "data.train")
                reader = self._reader(records, "train")
            plain = replace(reader, needs_completion=False)
            samples = some_readable(RecordSamples(records, plain), COMPARED)
            source = tell_source(samples, free_text=self.answer_type is not None)
            if self.answer_place is not None:
                source = AnswerSource(self.answer_place, all(sample.answer is None for sample in samples))
            rank_zero_info(f"data.{told_by}: {source.describe()}")
            self._answer_source = source
        return self._answer_source

    def _has_train_files(self) -> bool:
        """Tells whether the training records are here; a model may be tested where they are not."""
        given = self.files["train"]
        names = [given] if isinstance(given, str) else given or []
        return bool(names) and all(Path(name).expanduser().exists() or any(c in name for c in "*?[") for name in names)

    def _cut(self, samples: RecordSamples) -> RecordSamples:
        if self.max_samples is None or len(samples) <= self.max_samples:
            return samples
        indices = numpy.arange(len(samples)) if samples.indices is None else samples.indices
        return RecordSamples(samples.records, samples.reader, indices[: self.max_samples])

    def _review(self, samples: RecordSamples, option: str) -> None:
        """Looks at some samples or at all of them, without decoding their media, and says what was found."""
        found = review(samples, None if self.check_media else REVIEWED)
        looked_at = f"{option}: of {_count(found.looked_at, 'record')} looked at"
        for repair, count in found.repairs.most_common():
            rank_zero_info(f"{looked_at}, {count:,} mended: {repair}")
        if not found.bad:
            return
        fault = f"{looked_at}, {len(found.bad):,} cannot be used: {shown_faults(found.bad)}"
        # One cause behind all of them is a wrong setting, and no policy for single samples.
        if len(found.bad) == found.looked_at:
            raise UserError(fault)
        # The run would end there anyway, perhaps hours later.
        if self.bad_samples == "error":
            raise UserError(f"{fault} (data.bad_samples=skip leaves such samples out)")
        rank_zero_info(f"warning: {fault}")


def _folder(name: str, option: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{option}: there is no folder {name!r}")
    return folder


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
