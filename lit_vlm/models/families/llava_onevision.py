"""LLaVA-OneVision: a lone image is cut into tiles by its shape, several images and video frames are one tile each.

Architecture after Li et al., LLaVA-OneVision: Easy Visual Task Transfer (2024), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.functional import to_pil_image  # type: ignore[import-untyped]

from lit_vlm.models.families.family import Family, Frames, MediaCounts, Visual


class LlavaOneVision(Family):
    """Knows whether an image is alone in its conversation, which the processor only knows of one run of text."""

    model_types = ("llava_onevision",)
    # The model lays the frames of all videos of a batch in one tensor.
    even_frames = "always"

    def process(
        self, processor: Any, text: str, images: Sequence[Any], videos: Sequence[tuple[Frames, float]], in_row: int
    ) -> Mapping[str, Any]:
        """Runs the processor; an image that is alone in this run, but not in the conversation, is not cut up."""
        if len(images) != 1 or in_row == 1:
            return super().process(processor, text, images, videos, in_row)
        blank = to_pil_image(torch.zeros(3, 8, 8, dtype=torch.uint8))
        output = dict(super().process(processor, text + processor.image_token, [*images, blank], videos, in_row))
        added = self._rows_of_one(processor)
        for name in ("input_ids", "attention_mask"):
            output[name] = output[name][:, :-added]
        for name in ("pixel_values", "image_sizes"):
            output[name] = output[name][:1]
        return output

    def feature_rows(self, processor: Any, visual: Visual) -> MediaCounts:
        """Counts the rows of tiles without their padding, a row's end and an image's end being rows too."""
        image = 0
        if "pixel_values" in visual:
            alone = bool((visual["batch_num_images"] == 1).all())
            side = visual["pixel_values"].shape[-1]
            image = sum(
                self._rows_of_alone(processor, int(height), int(width), side) if alone else self._rows_of_one(processor)
                for height, width in visual["image_sizes"]
            )
        video = 0
        if "pixel_values_videos" in visual:
            videos, frames = visual["pixel_values_videos"].shape[:2]
            pooled = math.ceil(math.isqrt(processor.num_image_tokens) / 2)
            video = videos * (frames * pooled**2 + 1)
        return MediaCounts(image, video)

    def join(self, rows: Sequence[Sequence[Visual]]) -> Visual:
        """Puts the tensors of a batch together, each image with as many tiles as the one that has most."""
        runs = [run for row in rows for run in row]
        joined: Visual = {}
        with_images = [run for run in runs if "pixel_values" in run]
        if with_images:
            most = max(run["pixel_values"].shape[1] for run in with_images)
            joined["pixel_values"] = torch.cat([_pad_tiles(run["pixel_values"], most) for run in with_images])
            joined["image_sizes"] = torch.cat([run["image_sizes"] for run in with_images])
            # By conversation and not by run: an image is cut up only where it is alone.
            counts = [sum(len(run["image_sizes"]) for run in row if "image_sizes" in run) for row in rows]
            joined["batch_num_images"] = torch.tensor([count for count in counts if count])
        with_videos = [run["pixel_values_videos"] for run in runs if "pixel_values_videos" in run]
        if with_videos:
            joined["pixel_values_videos"] = torch.cat(with_videos)
        return joined

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns the placeholders of an image."""
        size = processor.image_processor.size
        side = size.get("shortest_edge") or min(size["height"], size["width"])
        alone = in_row == 1
        rows = self._rows_of_alone(processor, height, width, side) if alone else self._rows_of_one(processor)
        return str(processor.image_token) * rows

    def video_text(self, processor: Any, frames: int, height: int, width: int, rate: float) -> str | None:
        """Returns the placeholders of a video."""
        pooled = math.ceil(math.isqrt(processor.num_image_tokens) / 2)
        return str(processor.video_token) * (frames * pooled**2 + 1)

    def _rows_of_one(self, processor: Any) -> int:
        """Feature rows of an image that is not cut up, and the one that ends it."""
        dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
        return int(processor.num_image_tokens) + 1 - dropped

    def _rows_of_alone(self, processor: Any, height: int, width: int, side: int) -> int:
        dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
        return int(processor._get_number_of_features(height, width, side, side)) - dropped


def _pad_tiles(pixels: Tensor, tiles: int) -> Tensor:
    """Adds blank tiles, which the model leaves out again, to ``(images, tiles, C, H, W)``."""
    return pad(pixels, [0, 0, 0, 0, 0, 0, 0, tiles - pixels.shape[1]])
