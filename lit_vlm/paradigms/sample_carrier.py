"""Batches of samples without tokens, for what reads them as text and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch

from lit_vlm.functional.chat_payload import SentPictures, chat_messages, described
from lit_vlm.interfaces.batches import EvaluationBatch, GroupBatch, PreferenceBatch, PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, TokenCount
from lit_vlm.interfaces.roles import SampleCorruption, SampleEncoder


class SampleCarrier(SampleEncoder):
    """Puts samples into batches as they are, and refuses those whose pictures cannot be read.

    There is no tokenizer, so that everything that asks for tokens is refused.

    Args:
        pictures: How pictures will be written.
    """

    def __init__(self, pictures: SentPictures) -> None:
        self.pictures = pictures

    def encode_prompts(self, samples: Sequence[Sample]) -> PromptBatch:
        """Carries samples; tensors are empty, shape ``(B, 0)``.

        Raises:
            BadSampleError: A picture cannot be read, or a prompt is empty.
        """
        for sample in samples:
            chat_messages(sample, self.pictures)
        nothing = torch.zeros(len(samples), 0, dtype=torch.long)
        return PromptBatch(nothing, nothing, {}, tuple(samples))

    def encode_evaluation(self, samples: Sequence[Sample]) -> EvaluationBatch:
        """Carries samples; see ``encode_prompts``."""
        prompts = self.encode_prompts(samples)
        return EvaluationBatch(prompts, prompts)

    def describe_prompt(self, sample: Sample) -> str:
        """Writes a prompt for people to read, each medium as a placeholder."""
        return described(sample.prompt)

    def encode(self, samples: Sequence[Sample]) -> NoReturn:
        """Is refused."""
        raise _without_tokens()

    def encode_pairs(self, samples: Sequence[Sample], corrupt: SampleCorruption | None = None) -> PreferenceBatch:
        """Is refused."""
        raise _without_tokens()

    def encode_groups(self, samples: Sequence[Sample]) -> GroupBatch:
        """Is refused."""
        raise _without_tokens()

    def count_tokens(self, sample: Sample) -> TokenCount:
        """Is refused."""
        raise _without_tokens()

    def count_prompt_tokens(self, sample: Sample) -> TokenCount:
        """Is refused."""
        raise _without_tokens()

    def count_comparison_tokens(self, sample: Sample) -> TokenCount:
        """Is refused."""
        raise _without_tokens()

    def tokenise(self, text: str) -> list[int]:
        """Is refused."""
        raise _without_tokens()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Is refused."""
        raise _without_tokens()


def _without_tokens() -> UserError:
    return UserError(
        "an endpoint's tokenizer is not known here, so that nothing can be trained or counted with it; use predict to "
        "write its completions, and train a local model on them"
    )
