"""Serves the user's own preference data: pairs of completions, or several graded ones, in the published layouts."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, get_args

import numpy
from lightning.pytorch.utilities import rank_zero_info

from lit_vlm.data.chat_data_module import ChatDataModule, Files
from lit_vlm.data.records.answer_places import AnswerSource
from lit_vlm.data.records.preference_conventions import (
    PreferenceColumns,
    PreferenceConvention,
    detect_preferences,
)
from lit_vlm.data.records.preference_files import open_preference_file
from lit_vlm.data.records.preference_reader import NO_HALF, SAME_HALVES, PreferenceReader
from lit_vlm.data.records.record_files import RecordFiles, open_records
from lit_vlm.data.records.record_samples import first_readable
from lit_vlm.data.records.sample_reader import SampleReader
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Split
from lit_vlm.interfaces.roles import SampleEncoder

GRADED_PAIRS = "lit_vlm.synthesis.graded_pairs.GradedPairs"
"""The transform that makes pairs of graded completions, for messages."""
NAMED = 3
"""Records named of those that are left out for one reason."""


class PreferenceDataModule(ChatDataModule):
    """Serves prompts with a chosen and a rejected completion, or with graded ones, with images and videos from files.

    Read are: a prompt, question, instruction or conversation beside ``chosen`` and ``rejected``, each of these a text,
    a turn, several, or a conversation that repeats the prompt; RLHF-V's texts; ms-swift's ``rejected_response``; MMPR's
    ``meta.json``; HA-DPO's ``desc_data.json``; and the graded ``completions`` of VLFeedback, UltraFeedback and their
    like, of which ``transform`` makes what is learnt. Pairs whose halves are the same, or one of them null, are left
    out and counted. A column ``weight`` is the factor of a pair's loss.

    Validation measures pairs; answers are compared only where ``columns.answer`` names them.

    Args:
        train: File, folder, pattern or ``save_to_disk`` folder of the training records, or a list of these.
        encoder: Encodes for the model; the command line fills it in from ``model``.
        convention: How the records are written; None tells it from their columns.
        columns: Names of columns that differ from the usual ones.
        image_folders: Folders below the media root in which images named without a folder are looked for, after the
            root itself; None for those of Visual Genome, VG_100K and VG_100K_2.
        options: As for ``ChatDataModule``; ``validation_share`` never parts pairs of one prompt.

    Raises:
        UserError: As ``ChatDataModule``; or graded completions meet a module that learns something else, and no
            ``transform`` makes that of them.
    """

    def __init__(
        self,
        train: Files | None = None,
        encoder: SampleEncoder | None = None,
        *,
        convention: PreferenceConvention | None = None,
        columns: PreferenceColumns | None = None,
        image_folders: list[str] | None = None,
        **options: Any,
    ) -> None:
        self._pair_columns = columns or PreferenceColumns()
        super().__init__(train, encoder, columns=self._pair_columns, **options)
        if convention is not None and convention not in get_args(PreferenceConvention):
            known = ", ".join(get_args(PreferenceConvention))
            raise UserError(f"data.convention is {convention!r}; choose one of {known}")
        self.pair_convention = convention
        self.image_folders = None if image_folders is None else tuple(image_folders)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The values of ``columns.category``, or the entries of a mixture, among the samples that are evaluated."""
        return self._evaluated_categories()

    def setup(self, stage: str) -> None:
        """Opens what a stage needs, before weights are loaded.

        Raises:
            UserError: As ``samples``; or the module learns what the records do not hold.
        """
        super().setup(stage)
        if stage == "fit" and self.transform is None:
            self._check_form()

    def _check_form(self) -> None:
        reader = self.samples("train").reader
        holds_pairs = isinstance(reader, PreferenceReader) and reader.holds_pairs
        form = self.batch_form
        if form == "pairs" and not holds_pairs:
            raise UserError(
                "data.train holds graded completions, and the model learns pairs; say with data.transform how pairs "
                f"are made of them, e.g. {GRADED_PAIRS}"
            )
        if form == "groups" and holds_pairs:
            raise UserError(
                "data.train holds pairs, and the model learns from several graded completions of a prompt; give such "
                "data, or a model that learns pairs"
            )
        if form == "completions":
            what = "pairs" if holds_pairs else "graded completions"
            raise UserError(
                f"data.train holds {what}, and the model learns single completions; say with data.transform which, or "
                "train a module that learns preferences"
            )

    def _records(self, files: Files, option: str) -> RecordFiles:
        opener = partial(open_preference_file, folder=self._media_root)
        return open_records(files, option, longest_record=self.longest_record, opener=opener)

    def _reader(self, records: RecordFiles, split: Split) -> SampleReader:
        first = [record.values for record in first_readable(records)]
        reading = detect_preferences(first, self._pair_columns, self.pair_convention, records.name)
        return PreferenceReader(
            reading, needs_completion=False, image_folders=self.image_folders, **self._reading_options
        )

    def _source(self, split: Split, records: RecordFiles, reader: SampleReader) -> AnswerSource:
        if self.columns.answer is None or self.answer_type == "none":
            return AnswerSource("none", reason="preference data have none")
        return AnswerSource(self.answer_place or "any")

    def _kept(self, records: RecordFiles, reader: SampleReader, option: str) -> numpy.ndarray | None:
        """Leaves out pairs from which nothing can be learnt, and says how many there are."""
        if not isinstance(reader, PreferenceReader) or not reader.holds_pairs:
            return None
        left_out: Counter[str] = Counter()
        named: dict[str, list[str]] = {SAME_HALVES: [], NO_HALF: []}
        is_kept = numpy.ones(len(records), dtype=bool)
        for index, found in enumerate(records.scan()):
            reason = None if isinstance(found, BadSampleError) else reader.reason_to_leave_out(found)
            if reason is not None:
                is_kept[index] = False
                left_out[reason] += 1
                if len(named[reason]) < NAMED:
                    named[reason].append(records.origin(index))
        if not left_out:
            return None
        shown = "; ".join(
            f"{count:,} since {reason} ({_listed(named[reason], count)})" for reason, count in left_out.items()
        )
        message = f"{option}: {left_out.total():,} of {len(records):,} pairs are left out: {shown}"
        if not is_kept.any():
            raise UserError(f"{message}; none is left")
        rank_zero_info(message)
        return numpy.flatnonzero(is_kept)


def _listed(origins: list[str], count: int) -> str:
    return ", ".join(origins) + (f" and {count - len(origins):,} more" if count > len(origins) else "")
