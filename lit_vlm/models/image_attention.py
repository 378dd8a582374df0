"""How much the text of a prompt looks at its images and videos, layer by layer of the decoder.

Only eager attention has weights to look at; a layer's map of ``heads x L x L`` numbers a row is reduced as soon as it
is there, so that one map is in memory at a time.

Legend: ``B`` rows, ``R`` rows that count, ``L`` padded tokens, ``D`` decoder layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.vision_language_model import VisionLanguageModel

EAGER = "eager"


@torch.no_grad()
def image_attention(policy: VisionLanguageModel, batch: PromptBatch) -> Tensor:
    """Measures the attention from text tokens to all visual tokens, in each decoder layer.

    The weights that a text token gives to the visual tokens of its row are added up; of these shares the mean is taken
    over heads and over the text tokens that stand after the first visual one, since those before it see none.

    Args:
        policy: A model with an eager implementation of attention, which is switched to for this pass.
        batch: Rows with their media, padded on either side.

    Returns:
        Shares in [0, 1], fp32, shape ``(R, D)``: of the rows that have visual tokens and text after them, in order.

    Raises:
        UserError: A decoder layer shows no attention weights.

    Source:
        FRANK's modality prior, Training-Free Reasoning and Reflection in MLLMs, section 3.2 (from-paper-text). Whether
        the weights of an image's tokens are added up or averaged is not said; the fit over layers is the same.
    """
    visual, text = _token_kinds(batch, policy.media_token_ids)
    counts = text.any(1)
    shares: dict[int, Tensor] = {}
    modules = attention_modules(policy.model)
    with policy.decoding(), _eager(policy.model, modules):
        handles = [
            module.register_forward_hook(_reduction(layer, visual, text, shares))
            for layer, module in enumerate(modules)
        ]
        try:
            if counts.any():
                policy.hidden_states(batch)
        finally:
            for handle in handles:
                handle.remove()
    if not shares:
        return torch.zeros(0, len(modules))
    return torch.stack([shares[layer] for layer in range(len(modules))], 1)[counts]


def attention_modules(model: Any) -> list[nn.Module]:
    """Returns the attention of each decoder layer.

    Raises:
        UserError: A layer has none under the customary name.
    """
    modules = []
    for layer, block in enumerate(model.get_decoder().layers):
        module = getattr(block, "self_attn", None)
        if not isinstance(module, nn.Module):
            raise UserError(
                f"decoder layer {layer} of {type(model).__name__} has no attention over all tokens, so that there is "
                "nothing to measure; merge without the prior"
            )
        modules.append(module)
    return modules


def _token_kinds(batch: PromptBatch, media_token_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Marks visual tokens, and text tokens after the first of them; bool, shape ``(B, L)`` each."""
    attended = batch.attention_mask.bool()
    visual = torch.isin(batch.input_ids, batch.input_ids.new_tensor(list(media_token_ids))) & attended
    return visual, ~visual & attended & (visual.cumsum(1) > 0)


def _reduction(layer: int, visual: Tensor, text: Tensor, shares: dict[int, Tensor]) -> Callable[..., Any]:
    """Makes a hook that keeps a layer's shares and lets go of its map."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise UserError(
                f"{type(module).__name__} of decoder layer {layer} shows no attention weights, though eager attention "
                "is on; merge without the prior"
            )
        seen = (weights @ visual[:, None, :, None].to(weights.dtype)).squeeze(-1).float().mean(1)  # (B, L)
        shares[layer] = (seen * text).sum(1) / text.sum(1).clamp(min=1)
        return output[0], None, *output[2:]

    return hook


@contextmanager
def _eager(model: Any, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Lets the decoder, and what makes its masks, use eager attention; the vision tower stays as it is."""
    owners = [model.config.get_text_config(), model.get_decoder().config, *(module.config for module in modules)]
    # Layers share a configuration, or have copies of it.
    configurations: dict[int, Any] = {id(owner): owner for owner in owners}
    before = {key: owner._attn_implementation for key, owner in configurations.items()}
    try:
        for owner in configurations.values():
            owner._attn_implementation_internal = EAGER
        yield
    finally:
        for key, owner in configurations.items():
            owner._attn_implementation_internal = before[key]
