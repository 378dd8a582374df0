"""Gemma 3: each image, and each crop of it, is the same number of tokens, which see each other in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_vlm.models.families.family import Family, MediaCounts


class Gemma3(Family):
    """Tells the token that is written for an image from those that its features replace."""

    model_types = ("gemma3",)

    def placeholder_ids(self, processor: Any) -> MediaCounts:
        """Returns the token that features replace; in a prompt, an image is its begin mark."""
        return MediaCounts(int(processor.tokenizer.image_token_id), -1)

    def control_tokens(self, processor: Any) -> list[str]:
        """Lists the marks of images."""
        tokenizer = processor.tokenizer
        return [tokenizer.image_token, tokenizer.boi_token, tokenizer.eoi_token]

    def token_types(self, outputs: Sequence[Mapping[str, Any]]) -> str | None:
        """Names the input that makes attention within an image go both ways; the model wants it without images too."""
        return "token_type_ids"

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns what the processor writes in place of an image's placeholder, where it makes no crops."""
        crops = processor.image_processor.do_pan_and_scan
        return None if crops else str(processor.full_image_sequence)
