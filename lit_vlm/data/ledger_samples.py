"""Reads ledgers back: each question once, with all completions that were written for it."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lit_vlm.functional.ledger_files import is_ledger, read_header, read_rows
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader, LedgerRow
from lit_vlm.interfaces.records import Candidate, Completion, Sample, assistant_message

LEDGER = "ledger"
"""Folder of a run's ledger in the run's folder."""
Ledgers = str | list[str]


@dataclass(frozen=True)
class ReadLedgers:
    """The samples of one or more ledgers."""

    headers: Mapping[Path, LedgerHeader]
    """By folder."""
    samples: tuple[Sample, ...]
    """In the order in which they are first met; their candidates are the completions."""
    media: Mapping[str, str]
    """Of each sample the hash of its media."""
    notes: tuple[str, ...]
    """What a user should know: prompts that differ, samples with too few completions."""

    @property
    def completions(self) -> int:
        """Counts the completions."""
        return sum(len(sample.candidates) for sample in self.samples)


@dataclass
class _Question:
    """A sample as the first ledger has it, and what was written for it so far."""

    sample: Sample
    media_hash: str
    folder: Path
    candidates: list[Candidate] = field(default_factory=list)


def ledger_folders(ledgers: Ledgers, option: str) -> list[Path]:
    """Finds the folders of ledgers.

    Args:
        ledgers: Folders, folders of runs that hold a ledger, or patterns such as ``runs/solve/version_*/ledger``.
        option: Named in messages.

    Raises:
        UserError: There is none where one is named, or one is named twice.
    """
    found: list[Path] = []
    for name in [ledgers] if isinstance(ledgers, str) else ledgers:
        pattern = str(Path(name).expanduser())
        places = [Path(pattern)] if Path(pattern).exists() else [Path(place) for place in sorted(glob.glob(pattern))]
        if not places:
            raise UserError(f"{option}: there is no {name!r}; name the folder of a ledger that predict has written")
        for place in places:
            folder = place if is_ledger(place) or not is_ledger(place / LEDGER) else place / LEDGER
            if not is_ledger(folder):
                raise UserError(f"{option}: {str(place)!r} holds no ledger; name a folder that predict has written")
            found.append(folder)
    if not found:
        raise UserError(f"{option} is empty; name the folder of a ledger that predict has written")
    resolved = [folder.resolve() for folder in found]
    for number, folder in enumerate(found):
        if resolved[number] in resolved[:number]:
            raise UserError(f"{option} names {str(folder)!r} twice, so that its completions would count twice")
    return found


def read_ledgers(folders: Sequence[Path], *, with_tokens: bool = False, skip_faults: bool = False) -> ReadLedgers:
    """Reads ledgers, and joins the completions of one sample, those of the first ledger first.

    A candidate's scores are ``correct`` and ``formatted`` (1 or 0), ``finished`` (0 where the limit of tokens ended
    it), ``reward`` and ``reward/<name>``, ``length`` in tokens, ``log_prob`` (the sum) and ``entropy`` (the mean), as
    far as they are known; its ``model`` is the header's.

    Args:
        folders: Of the ledgers.
        with_tokens: Whether candidates carry their token ids, with log-probabilities and entropies.
        skip_faults: Whether files that are truncated are passed by and noted, instead of refused.

    Raises:
        UserError: A ledger cannot be read, they hold nothing, or two of them differ in the question, the media or the
            answer of a sample.
    """
    headers = {folder: read_header(folder) for folder in folders}
    questions: dict[str, _Question] = {}
    answers_differ, prompts_differ, systems_differ = [], [], set()
    notes: list[str] = []
    for folder, header in headers.items():
        counts: dict[str, set[int]] = {}
        faults: list[UserError] = []
        for row in read_rows(folder, faults if skip_faults else None):
            completion = row.completion
            sample_id = completion.sample.id
            places = counts.setdefault(sample_id, set())
            if completion.index in places:
                raise UserError(
                    f"the ledger {str(folder)!r} holds completion {completion.index} of sample {sample_id!r} twice; a "
                    "part file was copied or edited: take the copy out of the folder"
                )
            places.add(completion.index)
            question = questions.get(sample_id)
            if question is None:
                question = questions[sample_id] = _question(row, folder)
            elif question.folder != folder and len(places) == 1:
                if question.sample.answer != completion.sample.answer:
                    answers_differ.append((question, completion.sample, folder))
                elif _asked(question.sample) != _asked(completion.sample) or question.media_hash != row.media_hash:
                    prompts_differ.append((question, completion.sample, folder))
                elif question.sample.prompt != completion.sample.prompt:
                    systems_differ.add(sample_id)
            question.candidates.append(_candidate(completion, header.model, with_tokens=with_tokens))
        notes.extend(f"passes by {fault}" for fault in faults)
        notes.extend(_incomplete(folder, counts, header.completions))
    _refuse("answers", answers_differ)
    _refuse("questions or pictures", prompts_differ)
    if systems_differ:
        notes.append(
            f"{len(systems_differ):,} samples have another system turn in a later ledger; that of the first one is kept"
        )
    if not questions:
        raise UserError(f"{', '.join(map(str, folders))}: there is no completion; run predict to its end")
    samples = tuple(replace(one.sample, candidates=tuple(one.candidates)) for one in questions.values())
    media = {sample_id: one.media_hash for sample_id, one in questions.items()}
    return ReadLedgers(headers, samples, media, tuple(notes))


def _question(row: LedgerRow, folder: Path) -> _Question:
    sample = row.completion.sample
    meta = replace(sample.meta, origin=f"{folder}, sample {sample.id!r}")
    return _Question(replace(sample, meta=meta), row.media_hash, folder)


def _candidate(completion: Completion, model: str, *, with_tokens: bool) -> Candidate:
    message = assistant_message(completion.text)
    scores = dict(_scores(completion))
    if not with_tokens:
        return Candidate((message,), scores, model)
    return Candidate(
        (message,),
        scores,
        model,
        token_ids=completion.token_ids,
        log_probs=completion.log_probs,
        entropies=completion.entropies,
    )


def _scores(completion: Completion) -> Iterator[tuple[str, float]]:
    if completion.verdict is not None:
        yield "correct", float(completion.verdict.correct)
        yield "formatted", float(completion.verdict.formatted)
    if completion.finish_reason is not None:
        yield "finished", float(completion.finish_reason == "stop")
    for name, value in completion.rewards.items():
        yield ("reward" if name == "total" else f"reward/{name}"), value
    yield "length", float(completion.token_count)
    if completion.log_prob_sum is not None:
        yield "log_prob", completion.log_prob_sum
    if completion.entropies:
        yield "entropy", sum(completion.entropies) / len(completion.entropies)


def _asked(sample: Sample) -> list[object]:
    return [(message.role, message.content) for message in sample.prompt if message.role != "system"]


def _incomplete(folder: Path, counts: Mapping[str, set[int]], wanted: int) -> Iterator[str]:
    few = [sample_id for sample_id, places in counts.items() if len(places) < wanted]
    if few:
        more = f" and {len(few) - 1:,} more" if len(few) > 1 else ""
        yield f"{folder}: sample {few[0]!r}{more} have fewer than {wanted} completions, since predict did not end"


def _refuse(what: str, differing: Sequence[tuple[_Question, Sample, Path]]) -> None:
    if not differing:
        return
    question, other, folder = differing[0]
    values = ""
    if what == "answers":
        told = [None if sample.answer is None else sample.answer.value for sample in (question.sample, other)]
        values = f" ({told[0]!r} and {told[1]!r})"
    more = f", and of {len(differing) - 1:,} more" if len(differing) > 1 else ""
    raise UserError(
        f"the ledgers {str(question.folder)!r} and {str(folder)!r} differ in the {what} of sample {other.id!r}{values}"
        f"{more}; only ledgers of the same questions can be joined, so name them in runs of their own"
    )
