"""Positions of tokens, as the families count them: one number a token, or three where images have height and width.

Legend: ``B`` rows, ``L`` padded tokens of a row, ``R`` numbers of a position (1, or 3 for time, height and width).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch


def token_positions(model: Any, batch: PromptBatch) -> Tensor:
    """Computes the position of each token of a batch, padded on either side.

    Args:
        model: The Hugging Face model.
        batch: Rows with their media.

    Returns:
        Shape ``(R, B, L)``; what stands at padding has no meaning.
    """
    plain = (batch.attention_mask.cumsum(1) - 1).clamp(min=0).unsqueeze(0)
    count = getattr(model.base_model, "get_rope_index", None)
    if count is None:
        return plain
    if "mm_token_type_ids" not in batch.visual:
        return plain.expand(3, -1, -1)
    wanted = inspect.signature(count).parameters
    media = {name: value for name, value in batch.visual.items() if name in wanted}
    positions: Tensor = count(batch.input_ids, attention_mask=batch.attention_mask, **media)[0]
    return positions


def following_positions(positions: Tensor, attention_mask: Tensor, length: int) -> Tensor:
    """Continues rows by text: one after the largest position so far, in all numbers alike.

    Args:
        positions: Shape ``(R, B, L)``.
        attention_mask: 1 where a token counts, shape ``(B, L)``.
        length: Tokens to follow.

    Returns:
        Shape ``(R, B, length)``.
    """
    largest = positions.masked_fill(attention_mask == 0, -1).amax(dim=(0, 2))  # (B,)
    steps = torch.arange(1, length + 1, device=positions.device)
    return (largest[:, None] + steps).unsqueeze(0).expand(positions.shape[0], -1, -1)
