"""LLaVA 1.5: one square crop an image, each patch a feature row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.families.family import Family, MediaCounts


class Llava(Family):
    """Counts patches, with or without the class token."""

    model_types = ("llava",)

    def placeholder_ids(self, processor: Any) -> MediaCounts:
        """Returns the ids of the tokens that image features replace.

        Raises:
            UserError: The processor lacks what it counts the tokens of an image by, as in checkpoints of early years.
        """
        lacking = [name for name in ("patch_size", "vision_feature_select_strategy") if not getattr(processor, name)]
        if lacking:
            raise UserError(
                f"this LLaVA checkpoint's processor_config.json lacks {' and '.join(lacking)}; add to it patch_size "
                "(as vision_config has it in config.json), vision_feature_select_strategy (as in config.json, usually "
                '"default") and num_additional_image_tokens (1 for a CLIP vision tower, 0 for SigLIP)'
            )
        return super().placeholder_ids(processor)

    def rows_of_a_tile(self, processor: Any, pixels: Tensor) -> int:
        """Counts the patches of a crop, and the class token where its feature is kept."""
        height, width = pixels.shape[-2:]
        return self._rows(processor, height, width)

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns the placeholders of an image; all images are cropped to one size."""
        crop = processor.image_processor.crop_size
        if not processor.image_processor.do_center_crop or not crop:
            return None
        return str(processor.image_token) * self._rows(processor, crop["height"], crop["width"])

    def _rows(self, processor: Any, height: int, width: int) -> int:
        patches = (height // processor.patch_size) * (width // processor.patch_size)
        dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
        return int(patches + processor.num_additional_image_tokens - dropped)
