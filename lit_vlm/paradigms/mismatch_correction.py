"""Measures how far the engine that sampled and the policy that learns are apart, and weighs tokens by it.

Legend: ``B`` completions, ``T`` tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lit_vlm.functional.importance_weights import (
    BOUNDS,
    LEVELS,
    Bound,
    Level,
    bounded_weights,
    importance_ratios,
)
from lit_vlm.functional.kl_estimators import kl_estimate
from lit_vlm.interfaces.errors import UserError


@dataclass(frozen=True)
class MismatchCorrection:
    """Weighs the advantages of tokens that an engine with weights of its own sampled; others stay as they are.

    The weight is the probability under the policy before the update over that under the engine, within bounds. An
    objective that is homogeneous in the advantage, as clipped losses are, has its policy gradient weighed by it;
    divergences from a reference and entropy bonuses are not.
    """

    kind: Literal["truncated", "masked", "none"] = "truncated"
    """``truncated`` cuts ratios down to ``highest`` (TIS); ``masked`` gives tokens with a ratio outside ``lowest`` to
    ``highest`` no weight (IcePop); ``none`` measures only."""
    level: Level = "token"
    """``token``: a ratio for each token; ``sequence``: their product over a completion; ``mean``: the geometric mean of
    that, which does not grow with length."""
    lowest: float = 0.5
    """Smallest ratio that counts, for ``masked``, in [0, 1]."""
    highest: float = 2.0
    """Largest ratio that counts in full, at least 1. IcePop: 5."""

    def __post_init__(self) -> None:
        if self.kind not in (*BOUNDS, "none"):
            raise UserError(f"model.update.mismatch.kind is {self.kind!r}; give truncated, masked or none")
        if self.level not in LEVELS:
            raise UserError(f"model.update.mismatch.level is {self.level!r}; give {', '.join(LEVELS)}")
        if not 0 <= self.lowest <= 1 <= self.highest < math.inf:
            raise UserError(
                f"model.update.mismatch has lowest {self.lowest} and highest {self.highest}; wanted are 0 <= lowest <= "
                "1 <= highest, both finite"
            )


@dataclass
class MeasuredMismatch:
    """What a micro-batch's log-probabilities differ in."""

    weights: Tensor
    """Of tokens, shape ``(B, T)``; 1 where masked."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Over tokens that count: ``mismatch`` (difference of log-probabilities, absolute, in nats), ``mismatch_kl``
    (``k3`` from the policy to the engine, in nats), ``mismatch_cut`` (whether the ratio lay out of bounds)."""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """``mismatch`` and ``mismatch_ratio`` likewise."""


def measure_mismatch(
    correction: MismatchCorrection, log_probs: Tensor, sampled_log_probs: Tensor, mask: Tensor
) -> MeasuredMismatch:
    """Compares the log-probabilities of sampled tokens under the policy before the update with the engine's.

    Args:
        correction: What weights to make of it.
        log_probs: Under the policy, shape ``(B, T)``.
        sampled_log_probs: Under the engine, shape ``(B, T)``.
        mask: 1 on tokens that count, shape ``(B, T)``.
    """
    counted = mask.bool()
    policy = log_probs.detach().masked_fill(~counted, 0)
    engine = sampled_log_probs.masked_fill(~counted, 0).to(policy.dtype)
    distances = (policy - engine).abs()
    ratios = importance_ratios(policy, engine, mask, correction.level)
    if correction.kind == "none":
        weights = torch.ones_like(ratios)
    else:
        bound: Bound = correction.kind
        weights = bounded_weights(ratios, bound, correction.lowest, correction.highest)
    cut = torch.zeros_like(counted) if correction.kind == "none" else (weights != ratios) & counted
    token_ratios = importance_ratios(policy, engine, mask, "token").masked_fill(~counted, 0)
    sums = {
        "mismatch": distances,
        # Of the engine, which sampled, from the policy.
        "mismatch_kl": kl_estimate(engine, policy, "k3"),
        "mismatch_cut": cut.to(policy.dtype),
    }
    maxima = {"mismatch": distances, "mismatch_ratio": token_ratios}
    return MeasuredMismatch(
        weights,
        {name: value.masked_fill(~counted, 0).sum() for name, value in sums.items()},
        {name: value.amax() if value.numel() else value.sum() for name, value in maxima.items()},
    )
