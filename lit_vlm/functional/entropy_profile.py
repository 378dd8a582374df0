"""Sums over tokens from which an entropy's mean, quantiles and course are read.

Legend: ``B`` completions, ``T`` tokens, ``N`` bins of positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.functional.log_histogram import BINS, log_histogram

SCALARS = 4


@dataclass(frozen=True)
class PositionBins:
    """Cuts completions into bins of positions, counted from 0."""

    count: int
    """Bins."""
    tokens: int | None = None
    """Tokens a bin, of which the last takes all that follow; None: each bin is an equal share of a completion."""

    def __call__(self, mask: Tensor) -> Tensor:
        """Numbers the bin of each token.

        Args:
            mask: 1 on tokens that count, right-padded, shape ``(B, T)``.

        Returns:
            int64, shape ``(B, T)``; anything where masked.
        """
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        if self.tokens is not None:
            return (positions // self.tokens).clamp(max=self.count - 1)
        lengths = mask.sum(1, keepdim=True).clamp(min=1)
        return (positions * self.count // lengths).clamp(max=self.count - 1)


@dataclass(frozen=True)
class EntropyProfile:
    """Sums over tokens; profiles of batches and ranks add up. All float64, on the CPU."""

    values: Tensor
    """Tokens, sum, sum of squares, tokens above a threshold, then the histogram, then the sums and the tokens of each
    bin of positions; shape ``(4 + BINS + 2 N,)``."""

    @classmethod
    def empty(cls, bins: int) -> EntropyProfile:
        """Makes the profile of no tokens."""
        return cls(torch.zeros(SCALARS + BINS + 2 * bins, dtype=torch.float64))

    @classmethod
    def of(
        cls, entropies: Tensor, mask: Tensor, positions: PositionBins, threshold: float | None = None
    ) -> EntropyProfile:
        """Adds up the entropies of some completions.

        Args:
            entropies: In nats, shape ``(B, T)``; anything where masked.
            mask: 1 on tokens that count, right-padded, shape ``(B, T)``.
            positions: Bins of the course.
            threshold: Entropy above which a token counts as high; None: no token does.
        """
        counted = mask.bool()
        values = entropies.detach()[counted].cpu().double()
        places = positions(mask)[counted].cpu()
        high = torch.zeros(()) if threshold is None else (values > threshold).sum()
        scalars = torch.stack([torch.tensor(float(len(values))), values.sum(), values.square().sum(), high.double()])
        sums = torch.zeros(positions.count, dtype=torch.float64).index_add_(0, places, values)
        tokens = torch.bincount(places, minlength=positions.count).double()
        return cls(torch.cat([scalars.double(), log_histogram(values), sums, tokens]))

    def __add__(self, other: EntropyProfile) -> EntropyProfile:
        return EntropyProfile(self.values + other.values)

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return int(self.values[0])

    @property
    def total(self) -> float:
        """Sum of the entropies."""
        return float(self.values[1])

    @property
    def squares(self) -> float:
        """Sum of their squares."""
        return float(self.values[2])

    @property
    def mean(self) -> float:
        """Mean entropy in nats; there must be a token."""
        return self.total / self.tokens

    @property
    def high_share(self) -> float:
        """Share of tokens above the threshold; there must be a token."""
        return float(self.values[3]) / self.tokens

    @property
    def histogram(self) -> Tensor:
        """Counts as of ``log_histogram``, shape ``(BINS,)``."""
        return self.values[SCALARS : SCALARS + BINS]

    def course(self) -> list[float | None]:
        """Returns the mean of each bin of positions; None where there is no token."""
        sums, tokens = self.values[SCALARS + BINS :].chunk(2)
        return [total / count if count else None for total, count in zip(sums.tolist(), tokens.tolist(), strict=True)]
