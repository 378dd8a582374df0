"""Measures a split sample by sample, as a run would read and encode it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lit_vlm.command_line.compared_rows import compared_rows
from lit_vlm.command_line.encoded_rows import EncodedRow, RowEncoder, encode_row, without_limit
from lit_vlm.functional.distributions import Distribution, distribution
from lit_vlm.functional.sample_digests import image_digests, question_digest
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Completion, Sample, Split, Verdict
from lit_vlm.parsing.answers import answers_agree, check_answer

REPAIRS = "repairs"
"""Key of ``meta.extra`` under which a DataModule names what it mended in a sample."""
UNNAMED = "(unnamed)"
"""Stands for an empty task or source."""


class Samples(Protocol):
    """Samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class BadRow:
    """A sample that a run could not use."""

    split: Split
    index: int
    """Its place in the split."""
    origin: str
    reason: str


@dataclass
class SplitFigures:
    """What was counted over the samples of one split that were looked at."""

    split: Split
    max_tokens: int
    """Longest row of the model."""
    total: int
    """Samples in the split."""
    looked_at: int = 0
    usable: list[int] = field(default_factory=list)
    """Places of the samples that a run can use."""
    bad: list[BadRow] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    """Samples by task; this and the counts down to ``without_answer`` cover all that could be read."""
    sources: Counter[str] = field(default_factory=Counter)
    difficulties: Counter[str] = field(default_factory=Counter)
    images_per_sample: Counter[int] = field(default_factory=Counter)
    videos_per_sample: Counter[int] = field(default_factory=Counter)
    answer_types: Counter[str] = field(default_factory=Counter)
    without_answer: int = 0
    row_tokens: list[int] = field(default_factory=list)
    """Tokens of each row before anything is cut."""
    text_tokens: list[int] = field(default_factory=list)
    """Those that are no placeholder of an image or video."""
    image_tokens: list[int] = field(default_factory=list)
    """Placeholders of images and video frames."""
    trained_tokens: list[int] = field(default_factory=list)
    """Those that a supervised loss predicts, of the row as the model gets it."""
    beyond_limit: int = 0
    """Rows longer than ``max_tokens``."""
    cut: int = 0
    """Those of them whose completion is shortened."""
    refused: int = 0
    """Those of them that are bad samples; the rest is served whole, as evaluation does."""
    references_checked: int = 0
    """Samples that have both an answer and a completion, and whose answer can be checked without a judge."""
    references_right: int = 0
    """Those whose own completion agrees with their answer."""
    references_untagged: int = 0
    """Those whose own completion has no answer where validation looks for it."""
    repairs: Counter[str] = field(default_factory=Counter)
    """Samples by what was mended in them as they were read."""
    questions: Counter[bytes] = field(default_factory=Counter)
    """Usable samples by the fingerprint of their question and media."""
    images: Counter[bytes] = field(default_factory=Counter)
    """Images of usable samples by their fingerprint."""

    @property
    def read(self) -> int:
        """Samples that could be read, whether or not they could be encoded."""
        return self.without_answer + self.answer_types.total()

    @property
    def repeated(self) -> int:
        """Samples whose question and media were seen before in this split."""
        return self.questions.total() - len(self.questions)

    def token_distributions(self) -> dict[str, Distribution | None]:
        """Summarises the lengths, by kind of token."""
        return {
            "text": distribution(self.text_tokens),
            "image": distribution(self.image_tokens),
            "row": distribution(self.row_tokens),
            "trained": distribution(self.trained_tokens),
        }

    def bad_reasons(self) -> Counter[str]:
        """Counts the bad samples by reason, commonest first; numbers and quoted names within it do not count."""
        counts = Counter(reason_kind(row.reason) for row in self.bad)
        return Counter(dict(counts.most_common()))

    def to_json(self) -> dict[str, Any]:
        """A record of plain values."""
        return {
            "total": self.total,
            "looked_at": self.looked_at,
            "read": self.read,
            "usable": len(self.usable),
            "bad": len(self.bad),
            "bad_reasons": dict(self.bad_reasons()),
            "tasks": _sorted(self.tasks),
            "sources": _sorted(self.sources),
            "difficulties": _sorted(self.difficulties),
            "images_per_sample": _sorted(self.images_per_sample),
            "videos_per_sample": _sorted(self.videos_per_sample),
            "answer_types": _sorted(self.answer_types),
            "without_answer": self.without_answer,
            "tokens": {
                name: None if spread is None else spread.to_json()
                for name, spread in self.token_distributions().items()
            },
            "beyond_max_tokens": self.beyond_limit,
            "cut": self.cut,
            "refused": self.refused,
            "references_checked": self.references_checked,
            "references_right": self.references_right,
            "references_untagged": self.references_untagged,
            "repeated": self.repeated,
            "distinct_images": len(self.images),
            "repairs": dict(self.repairs.most_common()),
        }


def measure_split(
    samples: Samples,
    split: Split,
    encoder: RowEncoder,
    indices: Iterable[int],
    *,
    prompts_alone: bool = False,
    compared: bool = False,
) -> SplitFigures:
    """Reads and encodes samples one at a time and counts what they are.

    Args:
        samples: The split, as the loaders read it.
        split: Its name.
        encoder: The model's.
        indices: Which samples to look at.
        prompts_alone: Whether training reads their prompts alone.
        compared: Whether each completion of a sample is a row of its own.

    Returns:
        The figures; a sample that cannot be used is counted there with its reason, and never raises.
    """
    figures = SplitFigures(split, encoder.max_tokens, len(samples))
    unlimited = without_limit(encoder)
    for index in indices:
        figures.looked_at += 1
        origin = f"{split} sample {index}"
        try:
            sample = samples[index]
            origin = sample.meta.origin or sample.id or origin
            _count_sample(figures, sample)
            trained = []
            for _, completed in compared_rows(sample) if compared else [("", sample)]:
                row = encode_row(unlimited, completed, split, prompt_alone=prompts_alone)
                _count_row(figures, row, encoder.media_token_ids)
                if len(row.token_ids) > encoder.max_tokens:
                    figures.beyond_limit += 1
                    figures.refused += 1
                    served = encode_row(encoder, completed, split, prompt_alone=prompts_alone)
                    figures.refused -= 1
                    figures.cut += len(served.token_ids) < len(row.token_ids)
                    row = served
                trained.append(sum(row.trained))
            images = image_digests(sample)
            question = question_digest(sample, images)
        except BadSampleError as fault:
            figures.bad.append(BadRow(split, index, fault.origin or origin, fault.reason))
        except UserError as fault:
            figures.bad.append(BadRow(split, index, origin, str(fault)))
        else:
            figures.usable.append(index)
            figures.trained_tokens.extend(trained)
            figures.questions[question] += 1
            figures.images.update(images)
    return figures


def reference(sample: Sample) -> Completion:
    """The sample's own completion, with the verdict whether it agrees with the sample's answer.

    A completion without an answer in its place is compared as a whole. The verdict is None where there is no answer or
    no completion, or where only a judge could check the answer.
    """
    last = sample.messages[-1] if sample.messages else None
    text = last.text if last is not None and last.role == "assistant" else ""
    verdict: Verdict | None = None
    if sample.answer is not None and text:
        try:
            verdict = check_answer(text, sample.answer)
            if verdict.parsed is None and answers_agree(text, sample.answer):
                verdict = replace(verdict, correct=True)
        except UserError:
            verdict = None
    return Completion(sample, prompt="", text=text, verdict=verdict)


def overlaps(splits: Sequence[SplitFigures]) -> dict[tuple[Split, Split], int]:
    """Counts, for each pair of splits, the questions with the same media that were seen in both."""
    return {
        (first.split, second.split): len(first.questions.keys() & second.questions.keys())
        for first, second in itertools.combinations(splits, 2)
    }


def shared_images(splits: Sequence[SplitFigures]) -> dict[tuple[Split, Split], int]:
    """Counts, for each pair of splits, the images that were seen in both, whatever is asked of them."""
    return {
        (first.split, second.split): len(first.images.keys() & second.images.keys())
        for first, second in itertools.combinations(splits, 2)
    }


def reason_kind(reason: str) -> str:
    """Leaves out of a reason what differs from sample to sample.

    Example:
        >>> reason_kind("there is no media file '/data/a.png'"), reason_kind("the prompt has 812 tokens")
        ("there is no media file '…'", 'the prompt has N tokens')
    """
    return re.sub(r"\d+(?:\.\d+)?", "N", re.sub(r"""'[^']*'|"[^"]*\"""", "'…'", " ".join(reason.split())))


def _count_sample(figures: SplitFigures, sample: Sample) -> None:
    figures.tasks[sample.meta.category or UNNAMED] += 1
    figures.sources[sample.meta.source or UNNAMED] += 1
    if sample.meta.difficulty is not None:
        figures.difficulties[str(sample.meta.difficulty)] += 1
    figures.repairs.update(sample.meta.extra.get(REPAIRS, ()))
    figures.images_per_sample[len(sample.images)] += 1
    figures.videos_per_sample[len(sample.videos)] += 1
    if sample.answer is None:
        figures.without_answer += 1
    else:
        figures.answer_types[sample.answer.type] += 1
    verdict = reference(sample).verdict
    if verdict is not None:
        figures.references_checked += 1
        figures.references_right += verdict.correct
        figures.references_untagged += verdict.parsed is None


def _count_row(figures: SplitFigures, row: EncodedRow, media_token_ids: Sequence[int]) -> None:
    media = frozenset(media_token_ids)
    placeholders = sum(token_id in media for token_id in row.token_ids)
    figures.row_tokens.append(len(row.token_ids))
    figures.image_tokens.append(placeholders)
    figures.text_tokens.append(len(row.token_ids) - placeholders)


def _sorted(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(name): count for name, count in sorted(counts.items())}
