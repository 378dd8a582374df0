"""Tells models apart by their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lit_vlm.models.adapters import adapter_state, has_adapter
from lit_vlm.models.sharding import whole

ADAPTER_ENTRIES = ("lora_", "modules_to_save")
"""How parts of a weight's name begin that an adapter brought."""
WRAPPERS = ("base_layer", "original_module")
"""What an adapter writes into the names of the weights that it wraps."""


def weight_fingerprint(model: Any, *, with_adapter: bool) -> str:
    """Hashes the names, types, shapes and bytes of all weights; the same model gives the same hash in every run.

    A model gives the same hash with an adapter, where that does not count, as without one.

    Args:
        model: The Hugging Face model. Where its weights are cut up, all ranks must ask together.
        with_adapter: Whether the weights of an adapter count.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    weights = dict(_base_weights(model))
    if with_adapter and has_adapter(model):
        weights |= {f"adapter:{name}": value for name, value in adapter_state(model).items()}
    for name, value in sorted(weights.items()):
        # A line each, so that neighbouring entries cannot pass for one another.
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content: Any = whole(value.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def _base_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        steps = name.split(".")
        if isinstance(value, Tensor) and not any(step.startswith(ADAPTER_ENTRIES) for step in steps):
            yield ".".join(step for step in steps if step not in WRAPPERS), value
