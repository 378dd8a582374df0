"""Attention of completions that share their prompts: each prompt is computed once, whatever the number continuing it.

All tokens of a micro-batch lie end to end in one row without padding: the prompts, then the completions. A token of a
prompt attends to those before it in the prompt; a token of a completion to its whole prompt and to those before it in
the completion. Two calls of SDPA do that: one over the prompts, one over the completions with the keys of their
prompts in front. Everything else of the model works on single tokens and needs no change but the right positions.

Legend: ``P`` prompts, ``B`` completions, ``N`` tokens of the row, ``L`` and ``T`` tokens of the longest prompt and
completion, ``D`` width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX_ATTENTION = "lit_vlm_shared_prefix"
UNSHARED_TERMS = ("position_bias", "s_aux", "softcap")
"""What some families add to the scores, and the shared pass does not know."""


class UnshareableAttentionError(ValueError):
    """A layer attends in a way that the shared pass does not know."""


@dataclass(frozen=True)
class SharedPrefixLayout:
    """Where the tokens of prompts and completions lie in the row.

    It travels with the call, so that a recomputation in the backward pass sees the same.
    """

    prompt_tokens: Tensor
    """Place in the row of each prompt's tokens, right-padded with 0, shape ``(P, L)``."""
    completion_tokens: Tensor
    """Place in the row of each completion's tokens, right-padded with 0, shape ``(B, T)``."""
    prompt_of: Tensor
    """Prompt that each completion continues, shape ``(B,)``."""
    places: Tensor
    """Place of each token of the row among the padded prompts and completions laid end to end, shape ``(N,)``."""
    mask: Tensor
    """Whether a completion's token attends to a key, the prompt's before the completion's; bool, shape
    ``(B, 1, T, L + T)``."""

    @classmethod
    def of_masks(cls, prompt_mask: Tensor, completion_mask: Tensor, prompt_of: Tensor) -> SharedPrefixLayout:
        """Lays out the tokens that count, prompts first, each row by row.

        Args:
            prompt_mask: 1 where a token counts, right-padded, shape ``(P, L)``.
            completion_mask: Likewise, shape ``(B, T)``.
            prompt_of: Prompt that each completion continues, shape ``(B,)``.
        """
        is_token = torch.cat([prompt_mask.flatten(), completion_mask.flatten()]) != 0
        row_places = (is_token.cumsum(0) - 1) * is_token
        prompts, completions = row_places.split([prompt_mask.numel(), completion_mask.numel()])
        length = completion_mask.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=prompt_mask.device).tril()
        before = (prompt_mask != 0)[prompt_of][:, None].expand(-1, length, -1)  # (B, T, L)
        return cls(
            prompt_tokens=prompts.view_as(prompt_mask),
            completion_tokens=completions.view_as(completion_mask),
            prompt_of=prompt_of,
            places=is_token.nonzero().squeeze(1),
            mask=torch.cat([before, causal.expand(len(prompt_of), -1, -1)], 2).unsqueeze(1),
        )


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prefix: SharedPrefixLayout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attends as SDPA does or, where a layout comes with the call, within prompts and from completions to prompts.

    Args:
        module: The calling layer.
        query: Shape ``(1, heads, N, D)``; ``key`` and ``value`` likewise, with as many heads or fewer.
        key: See ``query``.
        value: See ``query``.
        attention_mask: Used without a layout only.
        shared_prefix: The layout of the row.
        options: ``scaling``, ``dropout`` and others, as for SDPA.

    Returns:
        The attended values, shape ``(1, N, heads, D)``, and None for the weights.

    Raises:
        UnshareableAttentionError: The layer adds something to its scores that the shared pass does not know.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    unknown = [name for name in UNSHARED_TERMS if options.get(name) is not None]
    if unknown or options.get("sliding_window") is not None:
        raise UnshareableAttentionError(f"attention with {', '.join(unknown) or 'a sliding window'} cannot be shared")
    layout = shared_prefix
    settings: dict[str, Any] = {"dropout": options.get("dropout", 0.0), "scaling": options.get("scaling")}
    states = [state[0].transpose(0, 1) for state in (query, key, value)]  # each (N, heads, D)
    prefix = [_fold(state, layout.prompt_tokens) for state in states]
    own = [_fold(state, layout.completion_tokens) for state in states]
    # Padding stands after the tokens that count, so that the causal mask alone hides it, and the fast kernels apply.
    output, _ = sdpa_attention_forward(module, *prefix, None, is_causal=True, **settings)
    output = output.flatten(0, 1)  # (P * L, heads, D)
    if layout.completion_tokens.numel():
        keys, values = (torch.cat([prefix[index][layout.prompt_of], own[index]], 2) for index in (1, 2))
        attended, _ = sdpa_attention_forward(module, own[0], keys, values, layout.mask, is_causal=False, **settings)
        output = torch.cat([output, attended.flatten(0, 1)])
    return output.index_select(0, layout.places).unsqueeze(0), None


def _fold(states: Tensor, tokens: Tensor) -> Tensor:
    """Takes the tokens of each row; ``(N, heads, D)`` to ``(rows, heads, tokens, D)``."""
    folded: Tensor = states.index_select(0, tokens.flatten()).view(*tokens.shape, *states.shape[1:])
    return folded.transpose(1, 2)


AttentionInterface.register(SHARED_PREFIX_ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX_ATTENTION, sdpa_mask)


def use_shared_prefix_attention(model: Any) -> None:
    """Lets a decoder that uses SDPA understand layouts; its other passes stay as they are."""
    model.get_decoder().config._attn_implementation_internal = SHARED_PREFIX_ATTENTION
