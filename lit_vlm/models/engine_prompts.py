"""Puts prompts as programs want them that process images themselves, such as vLLM."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from lit_vlm.functional.media import open_image
from lit_vlm.functional.media_store import png_bytes
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.policy_roles import EnginePrompt
from lit_vlm.interfaces.records import Sample
from lit_vlm.models.conversation import Segment, origin_of


def engine_prompt(
    sample: Sample,
    token_ids: Sequence[int],
    segments: Sequence[Segment],
    media_token_ids: Collection[int],
    processor: Any,
) -> EnginePrompt:
    """Puts a prompt so.

    Args:
        sample: The prompt's.
        token_ids: What the policy reads, without padding.
        segments: What the prompt was encoded from.
        media_token_ids: Placeholders of media.
        processor: The policy's.

    Raises:
        BadSampleError: The prompt has videos, or an image's placeholders do not stand together.
    """
    images = [sample.images[index] for segment in segments for index in segment.images]
    if any(segment.videos for segment in segments):
        raise BadSampleError(
            origin_of(sample), "its prompt has videos, which VLLMRolloutEngine does not send; choose HFRolloutEngine"
        )
    short, runs = _shortened(token_ids, media_token_ids)
    if runs != len(images):
        raise BadSampleError(
            origin_of(sample),
            f"its prompt has {len(images)} images, but {runs} runs of placeholder tokens, so that it cannot be told "
            "which belong together; this model family needs HFRolloutEngine",
        )
    pictures = tuple(png_bytes(open_image(image)) for image in images)
    return EnginePrompt(tuple(short), tuple(token_ids), pictures, processor_options(processor) if pictures else {})


def prompt_ids(prompts: PromptBatch) -> list[list[int]]:
    """Returns the tokens of each prompt without padding."""
    return [
        [token for token, counts in zip(ids, mask, strict=True) if counts]
        for ids, mask in zip(prompts.input_ids.tolist(), prompts.attention_mask.tolist(), strict=True)
    ]


def processor_options(processor: Any) -> dict[str, Any]:
    """Returns the bounds of an image's size, where the processor has bounds: a run may set them for itself."""
    size = getattr(getattr(processor, "image_processor", None), "size", None)
    bounds: dict[str, Any] = {name: getattr(size, name, None) for name in ("shortest_edge", "longest_edge")}
    return {} if None in bounds.values() else {"size": {name: int(value) for name, value in bounds.items()}}


def _shortened(token_ids: Sequence[int], media_token_ids: Collection[int]) -> tuple[list[int], int]:
    """Leaves one placeholder of each run, and counts the runs."""
    short: list[int] = []
    runs = 0
    for token, run in groupby(token_ids):
        is_medium = token in media_token_ids
        runs += is_medium
        short.extend([token] if is_medium else run)
    return short, runs
