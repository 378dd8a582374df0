"""Figures of whole optimizer steps, gathered over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_vlm.interfaces.rollouts import SumOverRanks


class StepFigures:
    """Adds up what the micro-batches of an optimizer step have to tell; every one must tell of the same figures.

    Nothing is read from the device before ``take``.
    """

    def __init__(self) -> None:
        self._shares: dict[str, Tensor] = {}
        self._means: dict[str, tuple[Tensor, Tensor]] = {}

    def __add__(self, other: StepFigures) -> StepFigures:
        """Puts the figures of both together."""
        both = StepFigures()
        for figures in (self, other):
            both.add_shares(figures._shares)
            for name, (value, count) in figures._means.items():
                both.add_means({name: value}, count)
        return both

    def add_shares(self, shares: Mapping[str, Tensor]) -> None:
        """Adds parts of figures that are sums over micro-batches and ranks.

        Args:
            shares: Scalars, by name.
        """
        for name, share in shares.items():
            value = share.detach().float()
            self._shares[name] = value if name not in self._shares else self._shares[name] + value

    def add_means(self, sums: Mapping[str, Tensor], count: Tensor) -> None:
        """Adds parts of figures that are means over all micro-batches and ranks.

        Args:
            sums: Scalars, by name.
            count: What each of them is a sum over, a scalar.
        """
        for name, summed in sums.items():
            value, number = summed.detach().float(), count.detach().float()
            if name in self._means:
                before, counted = self._means[name]
                value, number = before + value, counted + number
            self._means[name] = (value, number)

    def take(self, sum_over_ranks: SumOverRanks) -> dict[str, Tensor]:
        """Returns the figures of the step, 0 for means over nothing, and begins a new one.

        Args:
            sum_over_ranks: Adds a tensor up over all ranks, which must all call this.
        """
        values = [*self._shares.values(), *(part for pair in self._means.values() for part in pair)]
        if not values:
            return {}
        total = sum_over_ranks(torch.stack(values))
        shares, parts = (
            total[: len(self._shares)],
            total[len(self._shares) :].unflatten(0, (-1, 2)) if self._means else (),
        )
        figures = dict(zip(self._shares, shares, strict=True))
        figures |= {name: value / count.clamp(min=1) for name, (value, count) in zip(self._means, parts, strict=True)}
        self._shares, self._means = {}, {}
        return figures
