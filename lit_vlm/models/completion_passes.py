"""Runs the backbone over prompts and their completions, with shared prompts or repeated ones.

The shared pass computes a prompt with its images once, however many completions follow it; the naive one repeats it
for each. Both give the same states, up to rounding.

Legend: ``P`` prompts, ``B`` completions, ``L`` and ``T`` tokens of the longest prompt and completion, ``N`` tokens of a
row that holds them all, ``R`` numbers of a position, ``H`` hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.media_features import MediaFeatures, count_encodings, encode_media
from lit_vlm.models.positions import following_positions, token_positions
from lit_vlm.models.prompt_rows import TOKEN_TYPES, select_prompts
from lit_vlm.models.shared_prefix_attention import SharedPrefixLayout, use_shared_prefix_attention


@dataclass(frozen=True)
class Continuations:
    """Completions of prompts, each with one token or more, ready for a pass."""

    prompts: PromptBatch
    """The prompts that are continued, ``P`` of them, left-padded."""
    positions: Tensor
    """Position of each prompt token, shape ``(R, P, L)``."""
    token_ids: Tensor
    """Right-padded, shape ``(B, T)``."""
    mask: Tensor
    """1 where a token counts, shape ``(B, T)``."""
    prompt_of: Tensor
    """Row of ``prompts`` that each continues, shape ``(B,)``."""
    media: MediaFeatures | None
    """Features of the prompts' media; None where the pass must take pixels."""

    @classmethod
    def of_prompts(
        cls,
        model: Any,
        prompts: PromptBatch,
        token_ids: Tensor,
        mask: Tensor,
        prompt_of: Tensor,
        media: MediaFeatures | None = None,
    ) -> Continuations:
        """Leaves out prompts that nothing continues, and the padding that the others share; encodes media if need be.

        Args:
            model: The Hugging Face model.
            prompts: Left-padded.
            token_ids: See above.
            mask: See above.
            prompt_of: Row of ``prompts`` that each completion continues.
            media: Features of the media of all ``prompts``.
        """
        rows, owners = prompt_of.unique(return_inverse=True)
        longest = int(prompts.attention_mask[rows].sum(1).max())
        subset = select_prompts(model, prompts, rows) if media is None else None
        if media is not None:
            media = media.select(rows)
        elif subset is not None:
            media = encode_media(model, subset)
        else:
            whole = encode_media(model, prompts)
            media = None if whole is None else whole.select(rows)
        if media is None and subset is None:
            raise _unknown_pixels(model)
        visual = {name: prompts.visual[name][rows] for name in TOKEN_TYPES if name in prompts.visual}
        if media is None and subset is not None:
            visual = subset.visual
        return cls(
            prompts=PromptBatch(
                prompts.input_ids[rows, -longest:],
                prompts.attention_mask[rows, -longest:],
                {name: tensor[:, -longest:] if name in TOKEN_TYPES else tensor for name, tensor in visual.items()},
            ),
            positions=token_positions(model, prompts)[:, rows, -longest:],
            token_ids=token_ids,
            mask=mask,
            prompt_of=owners,
            media=media,
        )

    def select(self, rows: Tensor, length: int) -> Continuations:
        """Takes some completions, of ``length`` tokens at most, with all prompts and their padding.

        Args:
            rows: Indices, shape ``(N,)``.
            length: At least 1.
        """
        return replace(
            self,
            token_ids=self.token_ids[rows, :length],
            mask=self.mask[rows, :length],
            prompt_of=self.prompt_of[rows],
        )

    def following(self) -> Tensor:
        """Positions of the completions' tokens, shape ``(R, B, T)``."""
        after = following_positions(self.positions, self.prompts.attention_mask, self.token_ids.shape[1])
        return after[:, self.prompt_of]


def encodings_of(model: Any, prompts: PromptBatch, prompt_of: Tensor, media: MediaFeatures | None) -> int:
    """Counts how often a pass over completions, from ``Continuations.of_prompts`` on, runs the vision tower.

    Args:
        model: The Hugging Face model.
        prompts: Left-padded.
        prompt_of: Row of ``prompts`` that each completion continues.
        media: Features of the media of all ``prompts``.
    """
    if media is not None:
        return 0
    subset = select_prompts(model, prompts, prompt_of.unique())
    return count_encodings(prompts if subset is None else subset)


def naive_states(model: Any, given: Continuations) -> Tensor:
    """Runs the backbone on each completion behind a prompt of its own.

    Returns:
        Last hidden states from which each completion token is predicted, row by row, shape ``(tokens, H)``.
    """
    prompts, repeats = given.prompts, given.prompt_of
    length = prompts.input_ids.shape[1]
    added = given.token_ids[:, :-1]  # nothing is predicted from the last token
    positions = torch.cat([given.positions[:, repeats], given.following()[..., :-1]], 2)
    repeated = select_prompts(model, prompts, repeats)
    if repeated is None:
        raise _unknown_pixels(model)
    visual = {**repeated.visual, **({} if given.media is None else given.media.select(repeats).inputs())}
    for name in TOKEN_TYPES:
        if name in visual:
            visual[name] = torch.cat([visual[name], torch.zeros_like(added)], 1)
    output = model.base_model(
        input_ids=torch.cat([prompts.input_ids[repeats], added], 1),
        attention_mask=torch.cat([prompts.attention_mask[repeats], given.mask[:, :-1].to(prompts.attention_mask)], 1),
        position_ids=_as_given(positions),
        use_cache=False,
        **visual,
    )
    hidden: Tensor = output.last_hidden_state[:, length - 1 :]  # (B, T, H)
    return hidden[given.mask != 0]


def shared_states(model: Any, given: Continuations) -> Tensor:
    """Runs the backbone on one row of all prompts and completions, see ``shared_prefix_attention``.

    Returns:
        As ``naive_states``.
    """
    use_shared_prefix_attention(model)
    # Right-padded, so that causal attention alone keeps tokens from padding.
    padding = (given.prompts.attention_mask == 0).sum(1, keepdim=True)
    length = given.prompts.input_ids.shape[1]
    order = (torch.arange(length, device=padding.device) + padding) % length  # (P, L)
    prompt_mask = given.prompts.attention_mask.gather(1, order)
    prompt_ids = given.prompts.input_ids.gather(1, order)
    prompt_positions = given.positions.gather(2, order.expand(len(given.positions), -1, -1))
    # Nothing is predicted from the last token of a completion.
    layout = SharedPrefixLayout.of_masks(prompt_mask, given.mask[:, 1:], given.prompt_of)
    ids = torch.cat([prompt_ids.flatten(), given.token_ids[:, :-1].flatten()])
    positions = torch.cat([prompt_positions.flatten(1), given.following()[..., :-1].flatten(1)], 1)
    visual = given.media.inputs() if given.media is not None else _without_token_types(given.prompts.visual)
    output = model.base_model(
        input_ids=ids[layout.places].unsqueeze(0),
        # A mask of four axes is passed on as it is; the attention goes by the layout.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
        position_ids=_as_given(positions[:, layout.places].unsqueeze(1)),
        use_cache=False,
        shared_prefix=layout,
        **visual,
    )
    last = layout.prompt_tokens.gather(1, prompt_mask.sum(1, keepdim=True) - 1)  # (P, 1)
    before = torch.cat([last[given.prompt_of], layout.completion_tokens], 1)  # (B, T)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden[before[given.mask != 0]]


def _unknown_pixels(model: Any) -> UserError:
    return UserError(
        f"{type(model).__name__} takes no features of images, and nothing tells which pixels belong to which prompt, "
        "so its completions cannot be scored; choose another model, or a later version of transformers"
    )


def _without_token_types(visual: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor for name, tensor in visual.items() if name not in TOKEN_TYPES}


def _as_given(positions: Tensor) -> Tensor:
    """Drops the axis that models with one number a position do not know."""
    return positions[0] if len(positions) == 1 else positions
