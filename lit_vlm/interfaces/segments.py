"""What parts promise each other about the sub-sentences of a response: their labels, and models that judge them.

Legend: ``S`` sub-sentences of a response.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Completion, Sample

Hallucination = Literal["existence", "attribute", "relation"]
"""What a response may get wrong: which objects there are, what they are like, how they stand to each other."""
HALLUCINATIONS: tuple[Hallucination, ...] = get_args(Hallucination)

SEGMENT_LABELS = "segment_labels"
"""Entry of ``Sample.meta.extra``: for each kind of hallucination a list of -1 (hallucinated), 0 (nothing of this kind
is mentioned) or 1 (faithful), one a sub-sentence of the last assistant turn."""
SEGMENT_CLASSES = ("hallucinated", "not_mentioned", "faithful")
"""The classes of a sub-sentence, in the order of their numbers; a label is its class's number less 1."""


class SegmentScorer(ABC):
    """Judges the sub-sentences of responses by one kind of hallucination."""

    @property
    @abstractmethod
    def kind(self) -> Hallucination:
        """What it looks for."""

    @abstractmethod
    def __call__(self, completions: Sequence[Completion]) -> list[Tensor]:
        """Judges each sub-sentence, as ``parsing.segments.split_segments`` cuts a completion's text.

        Args:
            completions: Responses with their samples.

        Returns:
            For each completion the probabilities of ``SEGMENT_CLASSES``, fp32, on the CPU, shape ``(S, 3)``.

        Raises:
            UserError: A completion cannot be judged; nothing is guessed.
        """

    @abstractmethod
    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Tells what each token of a response adds to its text by this scorer's tokenizer."""


def segment_classes(sample: Sample, kind: Hallucination) -> tuple[int, ...]:
    """Reads the classes of a sample's sub-sentences, by their numbers.

    Raises:
        BadSampleError: The sample has no such labels, or one that is none of -1, 0 and 1.
    """
    origin = sample.meta.origin or sample.id
    by_kind = sample.meta.extra.get(SEGMENT_LABELS)
    labels = by_kind.get(kind) if isinstance(by_kind, Mapping) else None
    if not isinstance(labels, list | tuple):
        raise BadSampleError(
            origin, f"it has no list {SEGMENT_LABELS}.{kind}; give one of -1, 0 or 1 for each sub-sentence"
        )
    for label in labels:
        if type(label) is not int or label not in (-1, 0, 1):
            raise BadSampleError(origin, f"{SEGMENT_LABELS}.{kind} holds {label!r}; give only -1, 0 and 1")
    return tuple(label + 1 for label in labels)
