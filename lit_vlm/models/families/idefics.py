"""Idefics3 and SmolVLM: images cut into tiles with marks of row and column, a video's frames being tiles too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.models.smolvlm import processing_smolvlm
from transformers.video_utils import VideoMetadata

from lit_vlm.models.families.family import Family, Frames, MediaCounts, Visual, video_metadata

TILES = ("pixel_values", "pixel_attention_mask")


class Idefics(Family):
    """Lays all tiles of a batch in one row, in the order of their placeholders."""

    model_types = ("idefics3", "smolvlm")
    # The processor pads the shorter of two videos with blank frames, and tells the model that they are frames.
    even_frames = "turn"

    def placeholder_ids(self, processor: Any) -> MediaCounts:
        """Returns the one token that features replace."""
        return MediaCounts(int(processor.image_token_id), -1)

    def control_tokens(self, processor: Any) -> list[str]:
        """Lists the marks of images, of their tiles' borders and of videos."""
        tokens = [processor.image_token, processor.fake_image_token, getattr(processor, "video_token", None)]
        return [token for token in tokens if isinstance(token, str)]

    def chat_template(self, processor: Any, shows_video: bool) -> str | None:
        """Returns the checkpoint's template, or the family's where that one knows no videos.

        The processor would change templates by what it finds in the turns so far, within one conversation.
        """
        own = processor.chat_template
        if shows_video and isinstance(own, str) and "video" not in own:
            return str(processing_smolvlm.DEFAULT_CHAT_TEMPLATE)
        return own if isinstance(own, str) else None

    def process(
        self, processor: Any, text: str, images: Sequence[Any], videos: Sequence[tuple[Frames, float]], in_row: int
    ) -> Mapping[str, Any]:
        """Runs the processor, which keeps only the videos' pixels of a run that shows both kinds."""
        output = dict(super().process(processor, text, images, videos, in_row))
        if not (images and videos):
            return output
        shown = {
            "image": [self._lone(processor, processor.image_token, [image], []) for image in images],
            "video": [self._lone(processor, processor.video_token, [], [video]) for video in videos],
        }
        marks = re.finditer(f"(?P<image>{re.escape(processor.image_token)})|{re.escape(processor.video_token)}", text)
        order = [shown["image" if mark.group("image") else "video"].pop(0) for mark in marks]
        return {**output, **self.join([order])}

    def tiles(self, pixels: Tensor) -> int:
        """Counts the tiles of ``(rows, tiles, C, H, W)``; blank ones are padding, which the model leaves out."""
        return int((pixels != 0).flatten(2).any(2).sum())

    def join(self, rows: Sequence[Sequence[Visual]]) -> Visual:
        """Lays all tiles in one row: the model reads them in order, whatever row they are in."""
        runs = [run for row in rows for run in row if TILES[0] in run]
        if not runs:
            return {}
        height, width = (max(run[TILES[0]].shape[axis] for run in runs) for axis in (-2, -1))
        joined: Visual = {}
        for name in TILES:
            tensors = [run[name] for run in runs if name in run]
            if len(tensors) == len(runs):
                padded = [pad(x, [0, width - x.shape[-1], 0, height - x.shape[-2]]).flatten(0, 1) for x in tensors]
                joined[name] = torch.cat(padded).unsqueeze(0)
        return joined

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns what the processor writes in place of an image's placeholder."""
        _, rows, columns = processor.image_processor.get_number_of_image_patches(height, width, {})
        return str(processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0))

    def video_text(self, processor: Any, frames: int, height: int, width: int, rate: float) -> str | None:
        """Returns what the processor writes in place of a video's placeholder, with the time of each frame."""
        metadata = VideoMetadata(**video_metadata(frames, rate))
        output = {"pixel_values": torch.empty(1, frames), "video_metadata": [metadata]}
        return str(processor.replace_video_token(output, 0))

    def _lone(self, processor: Any, mark: str, images: Sequence[Any], videos: Sequence[tuple[Frames, float]]) -> Visual:
        output = super().process(processor, mark, images, videos, len(images))
        return {name: output[name] for name in TILES if name in output}
