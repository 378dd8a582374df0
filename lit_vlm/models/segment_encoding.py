"""Encodes responses with the classes of their sub-sentences as labels, at the tokens that end these.

Legend: ``B`` rows of a batch, ``L`` padded tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_vlm.functional.token_texts import token_texts
from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import IGNORED_LABEL, Sample
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.segments import Hallucination, segment_classes
from lit_vlm.models.conversation import origin_of
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.parsing.segments import segment_end_tokens


class SegmentEncoder(ProcessorEncoder):
    """Encodes as its base does, but labels only the end of each sub-sentence, by the sub-sentence's class.

    What ``PromptBatch.count`` counts as labels is thus the number of sub-sentences.

    Args:
        processor: Hugging Face processor or tokenizer.
        kind: Whose labels are read.
        options: Those of ``ProcessorEncoder``.
    """

    def __init__(self, processor: Any, kind: Hallucination, **options: Any) -> None:
        super().__init__(processor, **options)
        self.kind: Hallucination = kind

    def encode(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes prompts with their responses, right-padded.

        Raises:
            BadSampleError: As the base; or a sample lacks labels, or has not as many as its response has sub-sentences.
        """
        return self._labelled(super().encode(samples))

    def encode_evaluation(self, samples: Sequence[Sample]) -> EvaluationBatch:
        """Encodes both forms; those with responses are labelled likewise.

        Raises:
            BadSampleError: As ``encode``.
        """
        batch = super().encode_evaluation(samples)
        return replace(batch, complete=self._labelled(batch.complete))

    def _labelled(self, batch: PromptBatch) -> PromptBatch:
        return label_segments(self, batch, [segment_classes(sample, self.kind) for sample in batch.samples])


def label_segments(encoder: SampleEncoder, batch: PromptBatch, classes: Sequence[Sequence[int]]) -> PromptBatch:
    """Puts the class of each sub-sentence of the last trained turn on the token that ends it, as the only labels.

    Args:
        encoder: What encoded the batch.
        batch: Right-padded rows with labels on trained turns.
        classes: For each sample of the batch those of its sub-sentences, by their numbers.

    Raises:
        BadSampleError: A response has not as many sub-sentences as classes, or two that end at one token.
        ValueError: The batch has no labels.
    """
    if batch.labels is None:
        raise ValueError("the batch has no labels; encode samples with their responses")
    labels = torch.full_like(batch.input_ids, IGNORED_LABEL)
    for row, (sample, row_classes) in enumerate(zip(batch.samples, classes, strict=True)):
        start, ids = _response(batch.input_ids[row], batch.labels[row])
        ends = segment_end_tokens(token_texts(ids, encoder.decode)) if ids else []
        if len(ends) != len(row_classes):
            raise BadSampleError(
                origin_of(sample),
                f"its response has {len(ends)} sub-sentences, but {len(row_classes)} labels; give one for each"
                " (a response that does not fit into model.max_tokens loses its last ones)",
            )
        if len(set(ends)) < len(ends):
            raise BadSampleError(
                origin_of(sample), "two sub-sentences of its response end at one token; put white space between them"
            )
        labels[row, [start + end for end in ends]] = labels.new_tensor(row_classes)
    return replace(batch, labels=labels)


def _response(input_ids: Tensor, labels: Tensor) -> tuple[int, list[int]]:
    """Returns where the last trained turn of a row begins, and its tokens."""
    trained = (labels != IGNORED_LABEL).nonzero().squeeze(1).tolist()
    start = end = trained[-1] + 1 if trained else 0
    known = set(trained)
    while start - 1 in known:
        start -= 1
    return start, input_ids[start:end].tolist()
