"""InternVL in the Hugging Face format: tiles of one size, a video's frames being tiles too."""

from __future__ import annotations

from typing import Any

import torch

from lit_vlm.models.families.family import Family, MediaCounts


class InternVL(Family):
    """Tells images and videos by what surrounds them; their features replace the same token."""

    model_types = ("internvl",)
    # The processor stacks the videos of one call.
    even_frames = "turn"

    def placeholder_ids(self, processor: Any) -> MediaCounts:
        """Returns the one token that features replace."""
        return MediaCounts(int(processor.image_token_id), -1)

    def control_tokens(self, processor: Any) -> list[str]:
        """Lists the marks of images and videos."""
        return [processor.image_token, processor.video_token, processor.start_image_token, processor.end_image_token]

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns what the processor writes in place of an image's placeholder."""
        tiles = processor._get_num_multimodal_tokens(image_sizes=[(height, width)]).num_image_patches
        return str(processor.replace_image_token({"num_patches": tiles}, 0))

    def video_text(self, processor: Any, frames: int, height: int, width: int, rate: float) -> str | None:
        """Returns what the processor writes in place of a video's placeholder."""
        return str(processor.replace_video_token({"pixel_values_videos": [torch.empty(frames, 0)]}, 0))
