"""Continues prompts token by token: one pass over the prompts, then one token a row and pass.

Legend: ``P`` prompts, ``L`` padded tokens, ``V`` vocabulary, ``R`` numbers of a position.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import DecodingState
from lit_vlm.models.growing_cache import can_reorder, growing_cache, keep_rows, repeat_rows
from lit_vlm.models.media_features import MediaFeatures
from lit_vlm.models.positions import following_positions, token_positions
from lit_vlm.models.prompt_rows import TOKEN_TYPES, select_prompts


class CachedRows(DecodingState):
    """Rows of a Hugging Face model, with the keys and values of their past.

    Args:
        model: The Hugging Face model.
        prompts: ``P`` left-padded prompts with their media.
        media: Features of their media, in place of pixels.
    """

    def __init__(self, model: Any, prompts: PromptBatch, media: MediaFeatures | None = None) -> None:
        self._model = model
        self._cache: Any = growing_cache(model.config)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        positions = token_positions(model, prompts)
        self._position = following_positions(positions, prompts.attention_mask, 1)  # (R, rows, 1)
        self._mask = prompts.attention_mask
        visual = dict(prompts.visual)
        if media is not None:
            visual = {name: visual[name] for name in TOKEN_TYPES if name in visual} | media.inputs()
        self._run(prompts.input_ids, positions, visual)

    def repeat(self, repeats: int) -> None:
        """Repeats each row, at its place.

        Raises:
            UserError: The cache cannot.
        """
        if repeats == 1:
            return
        if not can_reorder(self._cache):
            raise UserError(f"the rows of {type(self._cache).__name__} cannot be repeated")
        repeat_rows(self._cache, len(self._mask), repeats)
        self._mask = self._mask.repeat_interleave(repeats, 0)
        self._position = self._position.repeat_interleave(repeats, 1)
        self.logits = self.logits.repeat_interleave(repeats, 0)

    def select(self, rows: Tensor) -> None:
        """Keeps some rows, in the order given."""
        keep_rows(self._cache, rows)
        self._mask = self._mask[rows]
        self._position = self._position[:, rows]
        self.logits = self.logits[rows]

    def advance(self, token_ids: Tensor) -> None:
        """Appends a token to each row, and makes the logits of the next."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        self._run(token_ids[:, None], self._position, {})
        self._position = self._position + 1

    def _run(self, input_ids: Tensor, positions: Tensor, visual: Mapping[str, Any]) -> None:
        options: dict[str, Any] = {"logits_to_keep": 1} if self._last_only else {}
        if self._takes_positions:
            options["position_ids"] = positions[0] if len(positions) == 1 else positions
        output = self._model(
            input_ids=input_ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **options,
            **visual,
        )
        self._cache = output.past_key_values
        self.logits = output.logits[:, -1]


def begin_rows(
    model: Any, prompts: PromptBatch, repeats: int, media: MediaFeatures | None = None, *, repeat_prompts: bool = False
) -> CachedRows:
    """Reads prompts, and makes ``repeats`` rows of each.

    Args:
        model: The Hugging Face model.
        prompts: ``P`` left-padded prompts with their media.
        repeats: Rows of each prompt.
        media: Features of their media, in place of pixels.
        repeat_prompts: Reads each prompt once for each of its rows, where the cache cannot be repeated.

    Raises:
        UserError: Nothing tells which pixels belong to which of the prompts that are to be repeated.
    """
    if not repeat_prompts:
        rows = CachedRows(model, prompts, media)
        rows.repeat(repeats)
        return rows
    owners = torch.arange(len(prompts), device=prompts.input_ids.device).repeat_interleave(repeats)
    repeated = select_prompts(model, prompts, owners)
    if repeated is None:
        raise UserError(f"{type(model).__name__} can continue no prompt more than once; choose another model")
    return CachedRows(model, repeated, None if media is None else media.select(owners))
