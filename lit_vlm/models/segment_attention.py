"""Attention over many short segments of one long row, as vision towers need it, in few calls.

Vision towers of the Qwen-VL kind lay all patches of a batch end to end and attend within segments (an image, or a
window of one). Without FlashAttention, transformers calls the kernel once per segment; here segments of equal length
share one call, which is exact and, with many small images, several times faster.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

# transformers hands over segment bounds only to implementations whose name says "flash".
SEGMENT_ATTENTION = "lit_vlm_segments_in_flash_layout"


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attends within each segment of a row.

    Args:
        module: The calling layer; not used.
        query: Shape ``(1, heads, N, width)``; ``key`` and ``value`` likewise.
        key: See ``query``.
        value: See ``query``.
        attention_mask: Not used: the segments are the mask.
        cu_seq_lens_q: Bounds of the segments, from 0 to ``N``; shape ``(segments + 1,)``.
        scaling: Factor of the scores; ``width ** -0.5`` by default.
        dropout: Dropout rate of the weights.

    Returns:
        The attended values, shape ``(1, N, heads, width)``, and None for the weights.
    """
    lengths = cu_seq_lens_q.diff()
    states = torch.stack((query[0], key[0], value[0])).transpose(1, 2)  # (3, N, heads, width)
    sizes = torch.unique(lengths).tolist()
    if len(sizes) == 1:
        return _attend(states, int(sizes[0]), scaling, dropout).unsqueeze(0), None
    length_of_token = torch.repeat_interleave(lengths, lengths)
    output = torch.empty_like(states[0])
    for size in filter(None, sizes):
        members = (length_of_token == size).nonzero().squeeze(1)
        output = output.index_copy(0, members, _attend(states[:, members], int(size), scaling, dropout))
    return output.unsqueeze(0), None


def _attend(states: Tensor, size: int, scaling: float | None, dropout: float) -> Tensor:
    """Attends within consecutive segments of one size; ``(3, N, heads, width)`` to ``(N, heads, width)``."""
    query, key, value = states.unflatten(1, (-1, size)).transpose(2, 3)  # each (segments, heads, size, width)
    attended = scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    return attended.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)


def use_segment_attention(model: PreTrainedModel) -> bool:
    """Switches the vision tower of a Qwen-VL model to segment attention, where it would use plain SDPA.

    Returns:
        Whether the model has such a tower and was switched.
    """
    tower = getattr(getattr(model, "model", None), "visual", None)
    configuration = getattr(tower, "config", None)
    if tower is None or configuration is None or not any(hasattr(layer, "qkv") for layer in tower.modules()):
        return False
    if configuration._attn_implementation != "sdpa":
        return False
    configuration._attn_implementation_internal = SEGMENT_ATTENTION
    return True
