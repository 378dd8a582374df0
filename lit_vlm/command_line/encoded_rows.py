"""Single samples as the rows that a run would make of them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import IGNORED_LABEL, Sample, Split


class RowEncoder(Protocol):
    """What is asked of a model's encoder, beyond the role, to look into its rows."""

    max_tokens: int
    media_token_ids: list[int]
    tokenizer: Any

    def encode(self, samples: Sequence[Sample]) -> PromptBatch:
        """As in the role."""

    def encode_prompts(self, samples: Sequence[Sample]) -> PromptBatch:
        """As in the role."""

    def encode_evaluation(self, samples: Sequence[Sample]) -> EvaluationBatch:
        """As in the role."""


@dataclass(frozen=True)
class EncodedRow:
    """The tokens of one sample, without padding."""

    token_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """Whether a supervised loss predicts the token; one a token."""


def encode_row(encoder: RowEncoder, sample: Sample, split: Split, *, prompt_alone: bool = False) -> EncodedRow:
    """Encodes one sample as training does, or for other splits as evaluation does, its completion included.

    Args:
        encoder: The model's.
        sample: What to encode.
        split: Where it is from.
        prompt_alone: Whether training reads its prompt alone.

    Raises:
        UserError: The sample cannot be encoded.
        BadSampleError: A run would leave the sample out.
    """
    if split == "train":
        batch = (encoder.encode_prompts if prompt_alone else encoder.encode)([sample])
        dropped = batch.dropped
    else:
        both = encoder.encode_evaluation([sample])
        batch = both.complete
        dropped = (*both.complete.dropped, *both.prompts.dropped)
    if dropped:
        raise BadSampleError(dropped[0].origin, dropped[0].reason)
    kept = batch.attention_mask[0].bool()
    token_ids = batch.input_ids[0][kept]
    labels = torch.full_like(token_ids, IGNORED_LABEL) if batch.labels is None else batch.labels[0][kept]
    # Nothing precedes the first token, so nothing predicts it.
    trained = (labels[1:] != IGNORED_LABEL).tolist()
    return EncodedRow(tuple(token_ids.tolist()), (False, *trained))


def without_limit(encoder: RowEncoder) -> RowEncoder:
    """Returns an encoder that differs in ``max_tokens`` alone and cuts no row, to measure lengths with."""
    unlimited = copy.copy(encoder)
    unlimited.max_tokens = sys.maxsize
    return unlimited
