"""Puts weights into one flat tensor of bytes and takes them out again. Needs torch only.

A weight is described by its name, its type and its shape, as JSON holds them: ``["head.weight", "bfloat16", [8, 4]]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes at a multiple of which each weight begins, so that the bytes there can be read as any type."""

Described = Sequence[Sequence[Any]]


def describe_weights(tensors: Mapping[str, Tensor]) -> list[list[Any]]:
    """Describes weights by name, type and shape, in order.

    Example:
        >>> describe_weights({"head": torch.ones(2, 3)})
        [['head', 'float32', [2, 3]]]
    """
    return [[name, str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()]


def flat_size(described: Described) -> int:
    """Counts the bytes that weights take in a row.

    Raises:
        ValueError: A description is none.
    """
    return sum(_taken(size) for _, _, _, size in _read(described))


def pack_weights(tensors: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Copies weights into one tensor, in order.

    Args:
        tensors: By name, on any device.
        device: Of the result.

    Returns:
        Bytes, shape ``(flat_size,)``.
    """
    described = describe_weights(tensors)
    flat = torch.zeros(flat_size(described), dtype=torch.uint8, device=device)
    for name, part in _parts(flat, described):
        part.copy_(tensors[name])
    return flat


def unpack_weights(flat: Tensor, described: Described) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights of a flat tensor with their names, copied, since some may be kept for longer than it.

    Args:
        flat: Bytes, shape ``(flat_size,)``.
        described: As the weights were when they were packed.

    Raises:
        ValueError: A description is none.
    """
    for name, part in _parts(flat, described):
        yield name, part.clone()


def _parts(flat: Tensor, described: Described) -> Iterator[tuple[str, Tensor]]:
    start = 0
    for name, dtype, shape, size in _read(described):
        yield name, flat[start : start + size].view(dtype).view(shape)
        start += _taken(size)


def _read(described: Described) -> Iterator[tuple[str, torch.dtype, list[int], int]]:
    for name, kind, shape in described:
        dtype = getattr(torch, str(kind), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name} is of type {kind}, which torch does not have")
        if not all(isinstance(length, int) and length >= 0 for length in shape):
            raise ValueError(f"{name} has the shape {shape}, which is none")
        yield str(name), dtype, list(shape), math.prod(shape) * dtype.itemsize


def _taken(size: int) -> int:
    """Rounds a size up to where the next weight may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT
