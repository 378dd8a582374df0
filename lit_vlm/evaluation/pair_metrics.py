"""Figures of pairs: means, and shares with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.comparisons import PairScores


class PairMetrics(Metric):
    """Averages named figures over pairs, batches and ranks.

    The names are known before the first pair, so that each rank holds the same counters, and a rank without pairs still
    takes part in the sums.

    Example:
        >>> metrics = PairMetrics(shares=["pair_accuracy"], means=["margin"])
        >>> metrics.update({"pair_accuracy": 1.0, "margin": 3.0}, count=2)
        >>> figures = metrics.compute()
        >>> figures["margin"], figures["pair_accuracy"], figures["pair_accuracy_total"]
        (1.5, 0.5, 2.0)
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, shares: Sequence[str], means: Sequence[str] = (), **options: Any) -> None:
        """Opens a counter for each figure.

        Args:
            shares: Names of those that count pairs.
            means: Names of the others.
            options: Those of ``torchmetrics.Metric``.
        """
        super().__init__(**options)
        self._shares = frozenset(shares)
        self._place_of = {name: place for place, name in enumerate((*shares, *means))}
        for state in ("sums", "counts"):
            self.add_state(state, default=torch.zeros(len(self._place_of)), dist_reduce_fx="sum")
        self.update({}, 0)

    def update(self, sums: Mapping[str, Tensor | float], count: Tensor | float) -> None:
        """Adds figures of a batch.

        Args:
            sums: Of each figure, over what is counted.
            count: How many pairs, or other things, each of them is a sum over.

        Raises:
            KeyError: A name is unknown.
        """
        for name, value in sums.items():
            self.sums[self._place_of[name]] += value
            self.counts[self._place_of[name]] += count

    def compute(self) -> dict[str, float]:
        """Returns the means over all ranks, by name; those over nothing are left out.

        Beside a share stand the bounds of its 95 % Wilson interval, ``_low`` and ``_high``, and the pairs, ``_total``.
        """
        figures = {}
        for (name, _), value, count in zip(
            self._place_of.items(), self.sums.tolist(), self.counts.tolist(), strict=True
        ):
            if not count:
                continue
            figures[name] = value / count
            if name in self._shares:
                low, high = wilson_interval(round(value), round(count))
                figures |= {f"{name}_low": low, f"{name}_high": high, f"{name}_total": count}
        return figures

    def reset(self) -> None:
        """Forgets everything seen."""
        super().reset()
        self.update({}, 0)


PAIR_ACCURACY, PAIR_ACCURACY_PER_TOKEN = "pair_accuracy", "pair_accuracy_per_token"


def pair_accuracies(scores: PairScores) -> dict[str, Tensor]:
    """Counts the pairs whose preferred completion the policy finds likelier; a tie is none of them.

    Args:
        scores: ``B`` pairs; those without a rejected completion do not count.

    Returns:
        ``pair_accuracy`` by sums of log-probabilities, ``pair_accuracy_per_token`` by their means over tokens; scalars.
    """
    policy, compared = scores.policy, scores.has_rejected
    chosen, rejected = policy.chosen.detach(), policy.rejected.detach()
    per_token = chosen / scores.chosen_tokens.clamp(min=1) > rejected / scores.rejected_tokens.clamp(min=1)
    return {
        PAIR_ACCURACY: ((chosen > rejected) & compared).sum(),
        PAIR_ACCURACY_PER_TOKEN: (per_token & compared).sum(),
    }
