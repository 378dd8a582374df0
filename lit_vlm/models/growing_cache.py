"""Keys and values of rows that grow token by token, in memory with room to spare.

The customary cache copies all that it holds at each step, and again whenever a row leaves. Here a step writes one
token, and a row that leaves is overwritten by one from the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64
"""Tokens of room made at a time."""


class GrowingLayer(DynamicLayer):
    """Holds one layer's keys and values, shape ``(rows, heads, tokens, width)`` each, at the start of larger blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized: bool = False
        self._blocks: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends tokens, and returns all keys and values."""
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if self._blocks is None or self._blocks[0].shape[2] < end:
            self._blocks = (_roomy(self.keys, end + ROOM), _roomy(self.values, end + ROOM))
        rows = len(self.keys)
        for block, states in zip(self._blocks, (key_states, value_states), strict=True):
            block[:rows, :, start:end] = states
        self._show(rows, end)
        return self.keys, self.values

    def repeat_rows(self, repeats: int) -> None:
        """Repeats each row, at its place."""
        if not self.is_initialized:
            return
        length, rows = self.keys.shape[2], len(self.keys) * repeats
        self._blocks = (_roomy(self.keys, length + ROOM, repeats), _roomy(self.values, length + ROOM, repeats))
        self._show(rows, length)

    def keep_rows(self, rows: Tensor, places: Tensor, sources: Tensor) -> None:
        """Keeps some rows.

        Args:
            rows: Those kept, in order.
            places: Where other rows than before will stand.
            sources: Rows that will stand there.
        """
        if not self.is_initialized:
            return
        length, kept = self.keys.shape[2], len(rows)
        if self._blocks is None or 2 * kept < len(self._blocks[0]):
            # Gives memory back once half of it is not used.
            self._blocks = (_roomy(self.keys[rows], length + ROOM), _roomy(self.values[rows], length + ROOM))
        elif len(places):
            for block in self._blocks:
                block[places, :, :length] = block[sources, :, :length]
        self._show(kept, length)

    def _show(self, rows: int, length: int) -> None:
        assert self._blocks is not None
        self.keys, self.values = (block[:rows, :, :length] for block in self._blocks)


def _roomy(states: Tensor, tokens: int, repeats: int = 1) -> Tensor:
    """Copies states to the start of a block of ``tokens``, each row several times."""
    rows, heads, length, width = states.shape
    block = states.new_empty(rows * repeats, heads, tokens, width)
    block.view(rows, repeats, heads, tokens, width)[:, :, :, :length] = states[:, None]
    return block


def growing_cache(configuration: Any) -> DynamicCache:
    """Makes an empty cache for a model: layers that keep the whole past grow in place, others are transformers' own.

    Args:
        configuration: The model's.
    """
    cache = DynamicCache(config=configuration)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
    return cache


def can_reorder(cache: Any) -> bool:
    """Tells whether the rows of a cache can be repeated and left out."""
    return isinstance(cache, Cache) and all(hasattr(layer, "reorder_cache") for layer in cache.layers)


def repeat_rows(cache: DynamicCache, rows: int, repeats: int) -> None:
    """Repeats each row, at its place.

    Args:
        cache: Holds ``rows`` rows.
        rows: See ``cache``.
        repeats: How often each is wanted.
    """
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.repeat_rows(repeats)
        else:
            layer.reorder_cache(torch.arange(rows).repeat_interleave(repeats))


def keep_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keeps some rows, in the order given.

    Args:
        cache: Holds at least as many rows.
        rows: Indices, none twice, shape ``(kept,)``.
    """
    places = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
    sources = rows[places]
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.keep_rows(rows, places, sources)
        else:
            layer.reorder_cache(rows)
