"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of any image size, laid end to end, with their grids beside them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from lit_vlm.models.families.family import Family, Run, Visual, video_metadata


class QwenVL(Family):
    """Predicts the placeholders from the size of the media."""

    model_types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

    def process_all(self, processor: Any, runs: Sequence[Run]) -> list[Mapping[str, Any]]:
        """Processes the images of all runs in one call, where there are no videos among them.

        A call costs as much as a small image. The tokenizer sees each placeholder once: it is a token of its own, so
        that repeating its id afterwards gives what the processor would.
        """
        if any(run.videos for run in runs):
            return super().process_all(processor, runs)
        images = processor.image_processor([image for run in runs for image in run.images], return_tensors="pt")
        texts = processor.tokenizer([run.text for run in runs], add_special_tokens=False)["input_ids"]
        grids = images["image_grid_thw"].split([len(run.images) for run in runs])
        pixels = images["pixel_values"].split([int(grid.prod(1).sum()) for grid in grids])
        outputs: list[Mapping[str, Any]] = []
        for tokens, grid, patches in zip(texts, grids, pixels, strict=True):
            counts = iter((grid.prod(1) // processor.image_processor.merge_size**2).tolist())
            ids: list[int] = []
            for token in tokens:
                ids.extend([token] * (next(counts) if token == processor.image_token_id else 1))
            input_ids = torch.tensor([ids])
            output = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
            types = (input_ids == processor.image_token_id).long()
            outputs.append({**output, "mm_token_type_ids": types, "pixel_values": patches, "image_grid_thw": grid})
        return outputs

    def join(self, rows: Sequence[Sequence[Visual]]) -> Visual:
        """Puts the tensors of a batch together; pixels that one call made are not copied."""
        runs = [run for row in rows for run in row]
        pixels = [run["pixel_values"] for run in runs if "pixel_values" in run]
        whole = _whole(pixels)
        if whole is None:
            return super().join(rows)
        rest = [{name: tensor for name, tensor in run.items() if name != "pixel_values"} for run in runs]
        return {"pixel_values": whole, **super().join([rest])}

    def even_counts(self, counts: Sequence[int], most: int) -> list[int]:
        """Shows a lone frame twice: two make a step in time, and Qwen3-VL refuses less."""
        return [max(count, 2) for count in counts]

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns what the processor writes in place of an image's placeholder."""
        patches = processor.image_processor.get_number_of_image_patches(height, width)
        return str(processor.replace_image_token({"image_grid_thw": torch.tensor([[1, 1, patches]])}, 0))

    def video_text(self, processor: Any, frames: int, height: int, width: int, rate: float) -> str | None:
        """Returns what the processor writes in place of a video's placeholder, with times where it writes them."""
        video = processor.video_processor
        steps = -(-frames // video.temporal_patch_size)
        patches = video.get_num_of_video_patches(frames, height, width, {})
        counted = steps if _counts_begun_steps(video) else frames // video.temporal_patch_size
        output = {
            "video_grid_thw": torch.tensor([[steps, 1, patches // counted]]),
            "video_metadata": [VideoMetadata(**video_metadata(frames, rate))],
        }
        return str(processor.replace_video_token(output, 0))


def _counts_begun_steps(video_processor: Any) -> bool:
    """Tells whether a last step in time that lacks frames, which is filled up, counts in the number of patches.

    It does not in some versions of transformers.
    """
    frames, side = video_processor.temporal_patch_size, video_processor.patch_size * video_processor.merge_size
    begun, whole = (video_processor.get_num_of_video_patches(frames + more, side, side, {}) for more in (1, 0))
    return bool(begun > whole)


def _whole(parts: Sequence[Tensor]) -> Tensor | None:
    """Returns the tensor that was split into all of these parts, in this order; None where there is none."""
    whole = parts[0]._base if parts else None
    if whole is None or any(part._base is not whole for part in parts):
        return None
    ends = itertools.accumulate(part.numel() for part in parts)
    starts = [0, *ends]
    fits = all(part.storage_offset() == start for part, start in zip(parts, starts, strict=False))
    # Of a single image the processor keeps an axis more, which is in the whole but not in its parts.
    return whole.view(-1, *parts[0].shape[1:]) if fits and starts[-1] == whole.numel() else None
