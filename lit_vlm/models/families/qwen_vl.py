"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of any image size, laid end to end, with their grids beside them."""

from __future__ import annotations

from typing import Any

import torch
from transformers.video_utils import VideoMetadata

from lit_vlm.models.families.family import Family, video_metadata


class QwenVL(Family):
    """Predicts the placeholders from the size of the media."""

    model_types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns what the processor writes in place of an image's placeholder."""
        patches = processor.image_processor.get_number_of_image_patches(height, width)
        return str(processor.replace_image_token({"image_grid_thw": torch.tensor([[1, 1, patches]])}, 0))

    def video_text(self, processor: Any, frames: int, height: int, width: int, rate: float) -> str | None:
        """Returns what the processor writes in place of a video's placeholder, with times where it writes them."""
        frames_of_a_step = processor.video_processor.temporal_patch_size
        steps = -(-frames // frames_of_a_step)
        # Some versions of transformers count whole steps only; the last one is filled up.
        patches = processor.video_processor.get_num_of_video_patches(steps * frames_of_a_step, height, width, {})
        output = {
            "video_grid_thw": torch.tensor([[steps, 1, patches // steps]]),
            "video_metadata": [VideoMetadata(**video_metadata(frames, rate))],
        }
        return str(processor.replace_video_token(output, 0))
