"""What media cost in tokens: common ones, found by encoding blank ones, and the largest that there can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms.functional import to_pil_image  # type: ignore[import-untyped]

from lit_vlm.interfaces.records import MediaRef, Message, Sample, TextPart, VideoPart, VideoRef, user_message
from lit_vlm.models.processor_encoder import ProcessorEncoder

IMAGE_SIZE = (1024, 1024)
VIDEO_SIZE = (640, 360)
LARGE_SIZES = ((8192, 8192), (8192, 4096), (4096, 8192), (8192, 2048), (2048, 8192))
"""Beyond what processors let pass, in several shapes."""


def token_budgets(encoder: ProcessorEncoder) -> tuple[str, ...]:
    """Says what a common image and the longest video cost, and at most, with the processor's bounds as they are set.

    The most is left out where the model family does not tell tokens by size.

    Returns:
        A line each; none for a model that reads text only.
    """
    processor = encoder.processor
    lines = []
    # Blank media are never dropped for their length.
    boundless = ProcessorEncoder(processor, max_tokens=10**9, max_video_frames=encoder.max_video_frames)
    if getattr(processor, "image_processor", None) is not None:
        image = Sample("image", (user_message("", images=1),), images=(_blank(IMAGE_SIZE),))
        most = _most_tokens(
            encoder, [encoder.family.image_text(processor, height, width, 1) for width, height in LARGE_SIZES]
        )
        lines.append(f"an image of {_size(IMAGE_SIZE)} pixels is {_media_tokens(boundless, image):,} tokens{most}")
    if getattr(processor, "video_processor", None) is not None:
        frames = encoder.max_video_frames
        video = VideoRef(frames=(_blank(VIDEO_SIZE),) * frames, fps=1.0)
        clip = Sample("video", (Message("user", (VideoPart(0), TextPart(""))),), videos=(video,))
        (even,) = encoder.family.even_counts([frames], frames)
        most = _most_tokens(
            encoder,
            [encoder.family.video_text(processor, even, height, width, 1.0) for width, height in LARGE_SIZES],
        )
        told = f"a video of {frames} frames of {_size(VIDEO_SIZE)} pixels"
        lines.append(f"{told} is {_media_tokens(boundless, clip):,} tokens{most}")
    return tuple(lines)


def _media_tokens(encoder: ProcessorEncoder, sample: Sample) -> int:
    ids = encoder.encode_prompts([sample]).input_ids
    return int(torch.isin(ids, torch.tensor(encoder.media_token_ids)).sum())


def _most_tokens(encoder: ProcessorEncoder, texts: Sequence[str | None]) -> str:
    tokens = encoder.tokenizer.convert_ids_to_tokens(encoder.media_token_ids)
    counts = [sum(text.count(token) for token in tokens) for text in texts if text is not None]
    return f", the largest one {max(counts):,}" if counts else ""


def _blank(size: tuple[int, int]) -> MediaRef:
    width, height = size
    image: Any = to_pil_image(torch.full((3, height, width), 128, dtype=torch.uint8))
    return MediaRef(pil=image, size=size)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
