"""What media cost in tokens, found by encoding blank ones."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms.functional import to_pil_image  # type: ignore[import-untyped]

from lit_vlm.interfaces.records import MediaRef, Message, Sample, TextPart, VideoPart, VideoRef, user_message
from lit_vlm.models.processor_encoder import ProcessorEncoder

IMAGE_SIZE = (1024, 1024)
VIDEO_SIZE = (640, 360)


def token_budgets(encoder: ProcessorEncoder) -> tuple[str, ...]:
    """Says what a common image and the longest video cost, with the processor's bounds as they are set.

    Returns:
        A line each; none for a model that reads text only.
    """
    processor = encoder.processor
    lines = []
    # Blank media are never dropped for their length.
    boundless = ProcessorEncoder(processor, max_tokens=10**9, max_video_frames=encoder.max_video_frames)
    if getattr(processor, "image_processor", None) is not None:
        image = Sample("image", (user_message("", images=1),), images=(_blank(IMAGE_SIZE),))
        lines.append(f"an image of {_size(IMAGE_SIZE)} pixels is {_media_tokens(boundless, image)} tokens")
    if getattr(processor, "video_processor", None) is not None:
        frames = encoder.max_video_frames
        video = VideoRef(frames=(_blank(VIDEO_SIZE),) * frames, fps=1.0)
        clip = Sample("video", (Message("user", (VideoPart(0), TextPart(""))),), videos=(video,))
        lines.append(f"a video of {frames} frames of {_size(VIDEO_SIZE)} is {_media_tokens(boundless, clip)} tokens")
    return tuple(lines)


def _media_tokens(encoder: ProcessorEncoder, sample: Sample) -> int:
    ids = encoder.encode_prompts([sample]).input_ids
    return int(torch.isin(ids, torch.tensor(encoder.media_token_ids)).sum())


def _blank(size: tuple[int, int]) -> MediaRef:
    width, height = size
    image: Any = to_pil_image(torch.full((3, height, width), 128, dtype=torch.uint8))
    return MediaRef(pil=image, size=size)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
