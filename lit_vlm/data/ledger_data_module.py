"""Serves what models wrote: ledgers, read back as questions with graded completions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import ConcatDataset, Dataset

from lit_vlm.data.attached_critiques import attach_critiques
from lit_vlm.data.attached_revisions import attach_revisions
from lit_vlm.data.ledger_samples import Ledgers, ReadLedgers, ledger_folders, read_ledgers
from lit_vlm.data.step_loader import StepLoader
from lit_vlm.data.transformed_samples import EvaluatedSamples, ExpandedSamples
from lit_vlm.data.vlm_data_module import Samples, VLMDataModule
from lit_vlm.functional.next_turn import PARENT
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import DescribesCompletions
from lit_vlm.interfaces.records import Sample, Split
from lit_vlm.interfaces.roles import CurationOperator, SampleEncoder

ModelOfLedger = Literal["any", "same"]
CRITIQUES, REVISIONS = "critiques", "revisions"
"""What ``attach`` may name."""
_MADE_FROM = re.compile(r"(#[0-9]+)+$")
"""How ids end of what was made of a completion."""


class SampleList(Dataset[Sample]):
    """Samples that are held in memory.

    Args:
        samples: In order.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = tuple(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)


class LedgerDataModule(VLMDataModule):
    """Serves the questions of ledgers with their completions as graded candidates.

    In order: ledgers are read and joined by sample id; critiques are attached; what is held out is parted off; what
    asks the same as a held-out sample is left out; ``curation`` acts on the training samples as a set; ``transform``
    makes of each what is learnt: ``RejectionSampling`` for imitation, ``CorrectnessPairs`` for preferences,
    ``CandidateGroups`` for graded groups, ``Replay`` for the completions as they are. Each of these says what it keeps.

    Args:
        ledgers: Folder of a ledger, or of a run with one, or a pattern; or a list of these. Ledgers of the same
            questions add their completions up.
        encoder: Encodes for the model; the command line fills it in from ``model``.
        validation: Ledgers of held-out questions.
        validation_share: Share of the questions that are held out, by a hash of their ids; questions about one
            solution's question fall on one side with it.
        evaluate_on: Another DataModule, whose validation and test samples are evaluated, after held-out ones if any.
        attach: Ledgers of what others made of these completions: ``critiques`` for those of judges, ``revisions`` for
            what was written anew after completions that are critiques themselves; judges may be of either.
        curation: Operators over the training samples, in order.
        model: Whether the completions may be of ``any`` model, which the log names, or must be of the ``same`` weights
            and the same template as those that training starts from, as for replay on policy.
        with_tokens: Whether candidates carry token ids, log-probabilities and entropies, which only mean something
            with the same template and tokens.
        any_split: Whether samples of a validation or test split may be learnt.
        predict_split: Split that ``predict`` writes completions for: of the training samples what ``transform`` makes,
            such as a judging question for each completion.
        options: As for every DataModule.

    A file of a ledger that is truncated is refused by name; with ``bad_samples: skip`` it is named and passed by.

    Raises:
        UserError: An option is out of its range; or, when a stage is set up, a ledger cannot be read or does not fit.
    """

    def __init__(
        self,
        ledgers: Ledgers,
        encoder: SampleEncoder | None = None,
        *,
        validation: Ledgers | None = None,
        validation_share: float = 0.0,
        evaluate_on: VLMDataModule | None = None,
        attach: dict[str, Ledgers] | None = None,
        curation: list[CurationOperator] | None = None,
        model: ModelOfLedger = "any",
        with_tokens: bool = False,
        any_split: bool = False,
        predict_split: Split = "train",
        **options: Any,
    ) -> None:
        super().__init__(encoder, predict_split=predict_split, **options)
        if not 0 <= validation_share < 1:
            raise UserError(f"data.validation_share is {validation_share}; give a share from 0 to below 1")
        if validation is not None and validation_share:
            raise UserError(
                f"data.validation names ledgers and data.validation_share is {validation_share}; give one of them"
            )
        if model not in get_args(ModelOfLedger):
            raise UserError(f"data.model is {model!r}; choose any or same")
        unknown = [name for name in attach or {} if name not in (CRITIQUES, REVISIONS)]
        if unknown:
            raise UserError(f"data.attach names {unknown[0]!r}; there are {CRITIQUES!r} and {REVISIONS!r}")
        self.ledgers = ledgers
        self.validation = validation
        self.validation_share = validation_share
        self.evaluate_on = evaluate_on
        self.attach = dict(attach or {})
        self.curation = tuple(curation or ())
        self.model: ModelOfLedger = model
        self.with_tokens = with_tokens
        self.any_split = any_split
        self._read: dict[str, ReadLedgers] = {}
        self._parts: tuple[SampleList, SampleList] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of ``evaluate_on``, then those of held-out samples, as far as they say."""
        held_out = self._training_and_held_out()[1]
        categories = sorted({sample.meta.category for sample in held_out} - {""})
        elsewhere = () if self.evaluate_on is None else self.evaluate_on.tasks
        return tuple(dict.fromkeys([*elsewhere, *categories]))

    def samples(self, split: Split) -> Samples:
        """Returns the samples of a split: curated ones to train on, those that are held out, or none to test on.

        Raises:
            UserError: As when a stage is set up.
        """
        training, held_out = self._training_and_held_out()
        return {"train": training, "validation": held_out, "test": SampleList(())}[split]

    def setup(self, stage: str) -> None:
        """Reads the ledgers, before weights are loaded.

        Raises:
            UserError: One cannot be read, is of another template where that matters, or of questions that may not be
                learnt; or ``curation`` leaves nothing.
        """
        super().setup(stage)
        training, _ = self._training_and_held_out()
        if stage == "fit" and not self.any_split:
            _refuse_evaluated(training)

    def train_dataloader(self) -> StepLoader:
        """Training batches, as of every DataModule.

        Raises:
            UserError: Another model or template wrote the ledgers, where that matters.
        """
        if self.model == "same" or self.with_tokens:
            self._check_writers()
        return super().train_dataloader()

    def val_dataloader(self) -> Any:
        """Validation batches, in order; none where there is nothing to validate on."""
        return super().val_dataloader() if len(self.prepared("validation")) else []

    def _made(self, split: Split) -> Samples:
        if split == "train":
            return self._made_to_train()
        if split not in self._transformed:
            held_out = self.samples(split)
            parts: list[Samples] = [EvaluatedSamples(held_out, self.transform) if self.transform else held_out]
            if self.evaluate_on is not None:
                parts.append(self.evaluate_on.prepared(split))
            made: Samples = ConcatDataset(parts)
            if split == "test" and not len(made):  # type: ignore[arg-type]
                raise UserError("there are no test data; set data.evaluate_on to a DataModule that has some")
            self._transformed[split] = made
        return self._transformed[split]

    def _made_to_train(self) -> Samples:
        is_new = "train" not in self._transformed
        made = super()._made("train")
        if is_new and isinstance(made, ExpandedSamples):
            of = len(self._training_and_held_out()[0])
            rank_zero_info(
                f"data.transform {type(self.transform).__name__}: makes {len(made):,} training samples of "
                f"{of - made.left_out:,} of {of:,}"
            )
        return made

    def _training_and_held_out(self) -> tuple[SampleList, SampleList]:
        """Reads, attaches, parts and curates, once."""
        if self._parts is None:
            read = self._opened(self.ledgers, "data.ledgers")
            training = self._with_attached(list(read.samples))
            held_out: list[Sample] = []
            media = dict(read.media)
            if self.validation is not None:
                other = self._opened(self.validation, "data.validation")
                held_out = list(other.samples)
                media |= other.media
            elif self.validation_share:
                training, held_out = _parted(training, self.validation_share)
            training = _without_held_out(training, held_out, media)
            self._parts = SampleList(self._curated(training)), SampleList(held_out)
        return self._parts

    def _opened(self, ledgers: Ledgers, option: str) -> ReadLedgers:
        folders = ledger_folders(ledgers, option)
        read = read_ledgers(folders, with_tokens=self.with_tokens, skip_faults=self.bad_samples == "skip")
        described = "; ".join(
            f"{folder} of {header.model} ({header.model_hash[:8]})" for folder, header in read.headers.items()
        )
        rank_zero_info(f"{option}: {read.completions:,} completions of {len(read.samples):,} samples from {described}")
        for note in read.notes:
            rank_zero_info(f"{option}: {note}")
        self._read[option] = read
        return read

    def _check_writers(self) -> None:
        module = self._served
        option = "data.model is same" if self.model == "same" else "data.with_tokens is true"
        if not isinstance(module, DescribesCompletions):
            raise UserError(f"{option}, but {type(module).__name__} does not tell which weights it has; set it back")
        own = module.ledger_header()
        for folder, header in self._read["data.ledgers"].headers.items():
            if header.template_hash != own.template_hash:
                raise UserError(
                    f"{str(folder)!r} was written with another chat template or tokenizer ({header.template_hash[:8]}, "
                    f"here {own.template_hash[:8]}), so that its token ids mean other text; {option}: set it back to "
                    "use the texts alone, or write the ledger anew with this model"
                )
            if self.model == "same" and header.model_hash != own.model_hash:
                raise UserError(
                    f"{str(folder)!r} was written by {header.model} ({header.model_hash[:8]}), and this run starts "
                    f"from {own.model} ({own.model_hash[:8]}); {option}: set it to any, or write the ledger anew with "
                    "this model"
                )

    def _with_attached(self, samples: list[Sample]) -> list[Sample]:
        if REVISIONS not in self.attach:
            return self._with_critiques(samples)
        option = f"data.attach.{REVISIONS}"
        judged = self._with_critiques([*samples, *self._opened(self.attach[REVISIONS], option).samples])
        attached, told = attach_revisions(judged[: len(samples)], judged[len(samples) :])
        rank_zero_info(f"{option}: {told}")
        return attached

    def _with_critiques(self, samples: list[Sample]) -> list[Sample]:
        if CRITIQUES not in self.attach:
            return samples
        option = f"data.attach.{CRITIQUES}"
        attached = attach_critiques(samples, self._opened(self.attach[CRITIQUES], option).samples)
        if not attached.judged:
            raise UserError(
                f"{option}: {attached.describe()}; name ledgers whose questions CritiquePrompts made of these solutions"
            )
        rank_zero_info(f"{option}: {attached.describe()}")
        return attached.samples

    def _curated(self, samples: list[Sample]) -> list[Sample]:
        for place, operator in enumerate(self.curation):
            name = f"data.curation[{place}] {type(operator).__name__}"
            before, had = len(samples), _candidates(samples)
            samples, reasons = operator.with_reasons(samples)
            told = (
                f"{name}: keeps {len(samples):,} of {before:,} samples, {_candidates(samples):,} of {had:,} candidates"
            )
            left_out = "; ".join(f"{count:,} {reason}" for reason, count in Counter(reasons).most_common() if count)
            told += f"; left out: {left_out}" if left_out else ""
            if not samples:
                raise UserError(f"{told}; change its settings, or give other ledgers")
            rank_zero_info(told)
        return samples


def _candidates(samples: Sequence[Sample]) -> int:
    return sum(len(sample.candidates) for sample in samples)


def _root(sample: Sample) -> str:
    """Names the question that a sample goes back to: its own, or that of the solution it is about, however deep."""
    parent = sample.meta.extra.get(PARENT)
    return sample.id if parent is None else _MADE_FROM.sub("", str(parent))


def _parted(samples: Sequence[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    training: list[Sample] = []
    held_out: list[Sample] = []
    for sample in samples:
        hashed = int.from_bytes(hashlib.blake2b(_root(sample).encode(), digest_size=8).digest(), "big")
        (held_out if hashed < share * 2**64 else training).append(sample)
    if not training or not held_out:
        empty = "validation" if training else "training"
        raise UserError(
            f"of {len(samples):,} samples none is left for {empty} with data.validation_share {share}; change it, or "
            "set data.validation or data.evaluate_on"
        )
    rank_zero_info(f"data.validation_share: {len(held_out):,} of {len(samples):,} samples are held out")
    return training, held_out


def _without_held_out(training: list[Sample], held_out: Sequence[Sample], media: dict[str, str]) -> list[Sample]:
    """Leaves out what asks the same of the same pictures as a held-out sample, or is about its question."""

    def asked(sample: Sample) -> tuple[object, ...]:
        turns = [(message.role, message.text) for message in sample.prompt if message.role != "system"]
        return (*turns, media[sample.id])

    roots = {_root(sample) for sample in held_out}
    questions = {asked(sample) for sample in held_out}
    kept = [sample for sample in training if _root(sample) not in roots and asked(sample) not in questions]
    if len(kept) < len(training):
        told = f"{len(training) - len(kept):,} of {len(training):,} training samples ask what a held-out one asks"
        if not kept:
            raise UserError(f"{told}, so that none is left; name other ledgers in data.validation")
        rank_zero_info(f"{told}, and are left out")
    return kept


def _refuse_evaluated(samples: SampleList) -> None:
    evaluated = [sample for sample in samples if sample.meta.split in ("validation", "test")]
    if evaluated:
        first = evaluated[0]
        raise UserError(
            f"{first.meta.origin} is of the {first.meta.split} split, and so are {len(evaluated) - 1:,} more of "
            f"{len(samples):,} training samples; write a ledger of the training split with predict "
            "--data.predict_split train, or set data.any_split to true where this is meant"
        )
