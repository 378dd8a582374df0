"""Draws one token a row, and tells what the policy thought of it.

Legend: ``R`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.rollouts.row_random import BITS, random_bits, scaled_bits
from lit_vlm.rollouts.sampling_settings import SamplingSettings


@dataclass(frozen=True)
class Draw:
    """A token for each row; see ``Rollouts`` for what the figures are of."""

    token_ids: Tensor
    """Shape ``(R,)``."""
    log_probs: Tensor
    """fp32, shape ``(R,)``."""
    entropies: Tensor
    """fp32, shape ``(R,)``."""


class TokenSampler:
    """Samples rows whose random numbers and penalties are their own.

    Args:
        settings: How to sample.
        seeds: Seed of each row, shape ``(R,)``.
        unsampled: Ids that are never drawn.
    """

    def __init__(self, settings: SamplingSettings, seeds: Tensor, unsampled: Sequence[int]) -> None:
        self.settings = settings
        self._seeds = seeds
        self._unsampled = torch.tensor(sorted(unsampled), dtype=torch.int64, device=seeds.device)
        self._held: Tensor | None = None

    def hold(self, token_ids: Tensor, mask: Tensor, vocabulary: int) -> None:
        """Notes what the rows hold from the start, where repetition is penalised.

        Args:
            token_ids: Shape ``(R, L)``.
            mask: 0 on padding, shape ``(R, L)``.
            vocabulary: ``V``.
        """
        if self.settings.repetition_penalty != 1:
            held = torch.zeros(len(token_ids), vocabulary, dtype=torch.int64, device=token_ids.device)
            self._held = held.scatter_add_(1, token_ids, mask.to(held.dtype)) > 0

    def select(self, rows: Tensor) -> None:
        """Keeps some rows, in the order given."""
        self._seeds = self._seeds[rows]
        if self._held is not None:
            self._held = self._held[rows]

    def __call__(self, logits: Tensor, step: int) -> Draw:
        """Draws the token that follows each row.

        Args:
            logits: Shape ``(R, V)``.
            step: Tokens that each row has drawn before.
        """
        temperature = self.settings.temperature or 1.0
        logits = logits.float()
        scores = logits if temperature == 1 else logits / temperature
        log_probs = scores.log_softmax(-1)
        probabilities = log_probs.exp()
        entropies = torch.special.entr(probabilities).sum(-1)
        if self._held is not None:
            penalty = self.settings.repetition_penalty
            penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
            scores = torch.where(self._held, penalised, logits) / temperature
        if len(self._unsampled):
            scores = scores.index_fill(1, self._unsampled, -torch.inf)
        if self.settings.is_greedy:
            token_ids = scores.argmax(-1)
        else:
            changed = self._held is not None or len(self._unsampled)
            weights = cut_off(scores.softmax(-1) if changed else probabilities, self.settings)
            token_ids = draw(weights, random_bits(self._seeds, step))
        if self._held is not None:
            self._held.scatter_(1, token_ids[:, None], True)
        return Draw(token_ids, log_probs.gather(1, token_ids[:, None]).squeeze(1), entropies)


def cut_off(probabilities: Tensor, settings: SamplingSettings) -> Tensor:
    """Sets the probabilities of tokens that may not be drawn to 0; the others stay as they are.

    Args:
        probabilities: Shape ``(R, V)``.
        settings: With ``top_k``, ``top_p`` and ``min_p``, in whose order the cuts are made.
    """
    if 0 < settings.top_k < probabilities.shape[1]:
        least = probabilities.topk(settings.top_k).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    if settings.top_p < 1:
        falling = probabilities.sort(-1, descending=True).values
        sums = falling.cumsum(-1)
        kept = (sums - falling < settings.top_p * sums[:, -1:]).sum(-1, keepdim=True).clamp(min=1)
        probabilities = probabilities.masked_fill(probabilities < falling.gather(1, kept - 1), 0)
    if settings.min_p > 0:
        least = settings.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    return probabilities


def draw(weights: Tensor, bits: Tensor) -> Tensor:
    """Draws an index of each row with the probability of its share of the row's sum.

    Weights become whole numbers first, whose sums are exact: an index of weight 0 is never drawn, on any device.

    Args:
        weights: In [0, 1] and of sum at most 1, but for rounding; more than 1e-12 in all; shape ``(R, V)``.
        bits: Random numbers, see ``random_bits``; shape ``(R,)``.

    Returns:
        Shape ``(R,)``.
    """
    sums = (weights * 2.0**BITS).long().cumsum(-1)
    places = scaled_bits(bits, sums[:, -1])
    return torch.searchsorted(sums, places[:, None], right=True).squeeze(1)
