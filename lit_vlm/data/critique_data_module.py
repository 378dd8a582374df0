"""Serves the user's own critiques: conversations that end on one, pairs of them, or labelled steps."""

from __future__ import annotations

from typing import Any

import numpy

from lit_vlm.data.chat_data_module import ChatDataModule, Files
from lit_vlm.data.critique_rules import CritiqueRules
from lit_vlm.data.records.answer_places import AnswerSource
from lit_vlm.data.records.critique_conventions import (
    CONVENTIONS,
    CritiqueColumns,
    CritiqueConvention,
    detect_critiques,
)
from lit_vlm.data.records.critique_reader import CritiquePairReader, CritiqueReader
from lit_vlm.data.records.mixed_record_samples import MixedRecordSamples
from lit_vlm.data.records.preference_conventions import PreferenceReading
from lit_vlm.data.records.record_files import RecordFiles
from lit_vlm.data.records.record_samples import RecordSamples, first_readable
from lit_vlm.data.records.sample_reader import SampleReader
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Sample, Split
from lit_vlm.interfaces.roles import SampleEncoder


class CritiqueDataModule(ChatDataModule):
    """Serves critiques of solutions from files, in the published layouts, maybe mixed with plain conversations.

    Read are: WebInstruct-CFT and One-Shot CFT, as instructions, questions or conversations whose prompt holds
    ``Question:`` and ``Solution:``; MultiCritique's conversations, and its pairs of a chosen and a rejected critique;
    ProJudge's labels of steps, as a JSON list or as TRL's stepwise supervision (``prompt``, ``completions``,
    ``labels``); and conversations of judges that compare two pictures, which are questions with two choices. Each
    critique stands in ``Sample.critique`` too. Records that judge nothing are questions to be solved.

    Left out, counted and named are critiques that were cut off, those that the options below say, and of the training
    records repeats. A verdict that is neither right nor wrong is counted.

    Args:
        train: File, folder, pattern or ``save_to_disk`` folder of the training records, or a list of these.
        encoder: Encodes for the model; the command line fills it in from ``model``.
        convention: How the records are written; None tells it from their columns.
        columns: Names of columns that differ from the usual ones.
        only_complete: Whether critiques are left out that neither hold "Conclusion:" nor label steps nor grade.
        verdict_agreement: Whether critiques are left out whose verdict is not the verifier's, which compares the
            judged solution with the column ``columns.answer``; where that is empty, they stay.
        max_sample_tokens: Tokens from which a training sample is left out, instead of being cut; None leaves none out.
        plain: Files of plain conversations to mix in, read as ``ChatDataModule`` does; None for none. A share of
            them, ``validation_share``, joins the validation samples, to be solved.
        plain_share: Share of these in the training samples, above 0 and below 1; all critiques are served once an
            epoch, and plain samples as often as that takes.
        options: As for ``ChatDataModule``.

    Source:
        Rules of what is kept: Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique
        Fine-Tuning on One Problem" (2025), ``prompts/generate_teacher_critique.py`` (confirmed-in-code); the filter by
        the verifier is ours. Columns of One-Shot CFT, MultiCritique and ProJudge are reconstructed.

    Raises:
        UserError: As ``ChatDataModule``; or no record has an answer to check verdicts with.
    """

    def __init__(
        self,
        train: Files | None = None,
        encoder: SampleEncoder | None = None,
        *,
        convention: CritiqueConvention | None = None,
        columns: CritiqueColumns | None = None,
        only_complete: bool = True,
        verdict_agreement: bool = False,
        max_sample_tokens: int | None = None,
        plain: Files | None = None,
        plain_share: float = 0.5,
        **options: Any,
    ) -> None:
        self._critique_columns = columns or CritiqueColumns()
        super().__init__(train, encoder, columns=self._critique_columns, **options)
        if convention is not None and convention not in CONVENTIONS:
            raise UserError(f"data.convention is {convention!r}; choose one of {', '.join(CONVENTIONS)}")
        if not 0 < plain_share < 1:
            raise UserError(f"data.plain_share is {plain_share}; give a share above 0 and below 1")
        if max_sample_tokens is not None and max_sample_tokens < 1:
            raise UserError(f"data.max_sample_tokens is {max_sample_tokens}; give a number above 0")
        self.critique_convention: CritiqueConvention | None = convention
        self.only_complete = only_complete
        self.verdict_agreement = verdict_agreement
        self.max_sample_tokens = max_sample_tokens
        self.plain_share = plain_share
        shared = {name: options[name] for name in ("validation_share", "media_root", "roots") if name in options}
        self._plain = None if plain is None else ChatDataModule(plain, encoder, **shared)
        self._mixed: dict[Split, RecordSamples] = {}

    def samples(self, split: Split) -> RecordSamples:
        """Opens a split, once, and states how it is read; plain samples are among those of training and validation.

        Raises:
            UserError: As ``ChatDataModule.samples``.
        """
        critiques = super().samples(split)
        if self._plain is None or split == "test":
            return critiques
        if split not in self._mixed:
            self._mixed[split] = self._with_plain(critiques, self._plain, split)
        return self._mixed[split]

    def _with_plain(self, critiques: RecordSamples, source: ChatDataModule, split: Split) -> RecordSamples:
        if split == "validation" and source.validation_share == 0:
            return critiques
        try:
            plain = source.samples(split)
        except UserError as fault:
            raise UserError(f"data.plain: {fault}") from fault
        wanted = len(plain)
        if split == "train":
            wanted = max(round(len(critiques) * self.plain_share / (1 - self.plain_share)), 1)
        return MixedRecordSamples(critiques, plain, wanted)

    def _reader(self, records: RecordFiles, split: Split) -> SampleReader:
        first = [record.values for record in first_readable(records)]
        reading = detect_critiques(first, self._critique_columns, self.critique_convention, records.name)
        if isinstance(reading, PreferenceReading):
            return CritiquePairReader(reading, needs_completion=False, **self._reading_options)
        needs_completion = split == "train" and not self.serves_prompts
        return CritiqueReader(reading, needs_completion=needs_completion, **self._reading_options)

    def _source(self, split: Split, records: RecordFiles, reader: SampleReader) -> AnswerSource:
        if "answer" not in reader.reading.columns or "none" in (self.answer_type, self.answer_place):
            return AnswerSource("none", reason="critiques have none")
        place = self.answer_place
        return AnswerSource("any" if place is None else place)

    def _kept(self, records: RecordFiles, reader: SampleReader, option: str) -> numpy.ndarray | None:
        """Leaves out critiques that are not to be learnt, and says how many there are and why."""
        is_training = option == "data.train"
        rules = CritiqueRules(
            only_complete=self.only_complete,
            verdict_agreement=self.verdict_agreement,
            is_training=is_training,
            is_too_long=self._is_too_long if is_training and self.max_sample_tokens is not None else None,
        )
        is_kept = numpy.ones(len(records), dtype=bool)
        for index, found in enumerate(records.scan()):
            if isinstance(found, BadSampleError):
                continue  # it is reported when it is read
            reason = reader.reason_to_leave_out(found) if isinstance(reader, CritiquePairReader) else None
            try:
                is_kept[index] = rules.leaves_out(found.origin, reason) if reason else rules.keeps(reader(found))
            except BadSampleError:
                continue
        rules.tell(option)
        if not is_kept.any():
            raise UserError(f"{option}: none of {len(records):,} records is left; change what is left out")
        return None if is_kept.all() else numpy.flatnonzero(is_kept)

    def _is_too_long(self, sample: Sample) -> bool:
        return self.encoder.count_tokens(sample).total > (self.max_sample_tokens or 0)
