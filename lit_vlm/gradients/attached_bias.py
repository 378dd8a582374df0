"""The step of a directional bias: each chosen weight's gradient is tilted, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_vlm.functional.gradient_directions import ALPHA_SHARE, BiasMode, bias_strength, factor_directions
from lit_vlm.gradients.weight_pieces import WeightPiece, piece_of
from lit_vlm.interfaces.roles import AttachedTransform
from lit_vlm.interfaces.weights import LowRankFactors


@dataclass(frozen=True)
class BiasedWeight:
    """A weight with the direction that it is biased along."""

    name: str
    """In memory."""
    trained: nn.Parameter | LowRankFactors
    """What has gradients: the weight or the factors of its adapter."""
    piece: WeightPiece
    """How the weight is cut; of an adapter, how its outer factor is."""
    direction: Tensor
    """In main memory: what lies here of the weight's direction; under an adapter, this rank's share of its rows."""
    alpha: float


class AttachedBias(AttachedTransform):
    """Biases the gradients of chosen weights.

    Args:
        weights: The weights with their directions, in the same order on all ranks.
        mode: The rule.
    """

    def __init__(self, weights: Sequence[BiasedWeight], mode: BiasMode) -> None:
        self._weights = tuple(weights)
        self._mode = mode

    @property
    def acts_on(self) -> Sequence[str]:
        """Names of the weights, in memory."""
        return [weight.name for weight in self._weights]

    @torch.no_grad()
    def __call__(self, coefficients: Mapping[str, float]) -> dict[str, Tensor]:
        """Tilts the gradients, one weight at a time; weights without a gradient are passed by.

        Args:
            coefficients: ``alpha_share`` multiplies each weight's ``alpha``; 1 where it is not named.

        Returns:
            ``cosine``, mean over tensors of the cosine of gradient and direction before the tilt; ``tensors``, how many
            had both; ``push``, norm of what is subtracted over the norm of the gradients it is subtracted from.
        """
        share = coefficients.get(ALPHA_SHARE, 1.0)
        figures: list[Tensor] = []
        for weight in self._weights:
            alpha = share * weight.alpha
            if isinstance(weight.trained, LowRankFactors):
                figures.extend(self._bias_factors(weight, weight.trained, alpha))
            else:
                figures.extend(self._bias(weight.trained, weight.piece, weight.direction, alpha))
        if not figures:
            nothing = torch.zeros(())
            return {"cosine": nothing, "tensors": nothing, "push": nothing}
        cosine, counted, gradients, pushes = torch.stack(figures).sum(0).unbind()
        return {
            "cosine": cosine / counted.clamp(min=1),
            "tensors": counted,
            "push": (pushes / gradients.clamp(min=1e-24)).sqrt(),
        }

    def _bias_factors(self, weight: BiasedWeight, factors: LowRankFactors, alpha: float) -> list[Tensor]:
        if factors.outer.grad is None and factors.inner.grad is None and not weight.piece.is_cut:
            return []
        outer_piece, inner_piece = weight.piece, piece_of(factors.inner, factors.inner_piece)
        outer, inner = outer_piece.whole(factors.outer).float(), inner_piece.whole(factors.inner).float()
        rows = outer_piece.rows()
        delta = weight.direction.to(outer.device, non_blocking=True).float()
        own, inner_direction = factor_directions(delta, inner, outer[rows], factors.scale)
        outer_direction = torch.zeros_like(outer)
        outer_direction[rows] = own
        if outer_piece.is_cut:
            both = outer_piece.total(torch.cat([outer_direction.flatten(), inner_direction.flatten()]))
            outer_direction, inner_direction = (
                part.view_as(like)
                for part, like in zip(both.split([outer.numel(), inner.numel()]), (outer, inner), strict=True)
            )
        return [
            *self._bias(factors.outer, outer_piece, outer_piece.of(outer_direction), alpha),
            *self._bias(factors.inner, inner_piece, inner_piece.of(inner_direction), alpha),
        ]

    def _bias(self, parameter: nn.Parameter, piece: WeightPiece, direction: Tensor, alpha: float) -> list[Tensor]:
        """Tilts one gradient, and returns its cosine, whether it counts, and squared norms of it and of the push."""
        if parameter.grad is None and not piece.is_cut:
            return []
        held = parameter if parameter.grad is None else parameter.grad
        gradient = piece.local(held)
        if parameter.grad is None:
            # This rank may hold nothing of the weight, and has to take part in the sums all the same.
            gradient = torch.zeros_like(gradient)
        direction = direction.to(gradient.device, non_blocking=True).float()
        strength = bias_strength(gradient, direction, alpha, self._mode, piece.total if piece.is_cut else None)
        if alpha != 0:
            gradient.copy_(gradient.float() - strength.factor * direction)
        push = strength.factor * strength.direction_norm
        return [torch.stack([strength.cosine, strength.counts, strength.gradient_norm.square(), push.square()])]
