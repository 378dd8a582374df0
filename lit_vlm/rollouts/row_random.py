"""Random numbers that depend on a row's seed and the step alone.

A generator carries a state, so that what it gives depends on who drew before. Here a number is a hash of its seed and
its counter: rows may stand in any order, in any batch and on any rank, and finished ones may leave.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError

BITS = 40
"""Bits of a random number."""
_HALF = BITS // 2
# Weyl increment and multipliers of SplitMix64 (Steele, Lea and Flood, 2014), as signed numbers of 64 bits.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def row_seeds(seeds: Sequence[int], prompts: int, group_size: int, device: torch.device) -> Tensor:
    """Derives the seed of each completion from that of its prompt and its index in the group.

    Args:
        seeds: One a prompt.
        prompts: Number of prompts.
        group_size: Completions of each.
        device: Where the seeds are wanted.

    Returns:
        Prompt by prompt, int64, shape ``(prompts * group_size,)``.

    Raises:
        UserError: ``group_size`` is below 1.
        ValueError: There are not as many seeds as prompts.
    """
    if group_size < 1:
        raise UserError(f"group_size is {group_size}; give at least 1")
    if len(seeds) != prompts:
        raise ValueError(f"there are {prompts} prompts, but {len(seeds)} seeds")
    derived = [stream_seed("completion", seed, index) for seed in seeds for index in range(group_size)]
    return torch.tensor([seed - 2**63 for seed in derived], dtype=torch.int64, device=device)


def random_bits(seeds: Tensor, step: int) -> Tensor:
    """Draws one number a row, uniform in ``[0, 2 ** BITS)``.

    Args:
        seeds: int64, shape ``(rows,)``.
        step: Counter, from 0 on.
    """
    # Products wrap around modulo 2 ** 64, and a shift brings copies of the sign, which the mask takes off.
    state = seeds + _signed((step + 1) * _INCREMENT)
    for shift, multiplier in _MULTIPLIERS:
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    state = state ^ ((state >> 31) & ((1 << 33) - 1))
    return (state >> (64 - BITS)) & ((1 << BITS) - 1)


def scaled_bits(bits: Tensor, totals: Tensor) -> Tensor:
    """Maps random numbers to ``[0, totals)`` by exact integer arithmetic.

    Args:
        bits: As ``random_bits`` gives, of any shape.
        totals: Positive, less than ``2 ** 43``, of the same shape.
    """
    high, low = bits >> _HALF, bits & ((1 << _HALF) - 1)
    return (high * totals + ((low * totals) >> _HALF)) >> _HALF


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63
