"""FRANK: a coefficient for each decoder layer, in closed form, to merge a VLM with a reasoning model.

Legend: ``l`` a decoder layer, ``a_l`` the attention to images there, ``V`` the VLM, ``R`` the reasoning model.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lit_vlm.functional.task_vectors import inner_product, weighted_sum, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.donor_checks import both

logger = logging.getLogger(__name__)

_LEAST_ATTENTION = 1e-12


@dataclass(frozen=True)
class FrankLayer:
    """What FRANK found for one decoder layer."""

    layer: int
    """From 0."""
    attention: float | None
    """``a_l``; None without a prior."""
    vision_prior: float
    """``w_V``; 0.5 without a prior."""
    vision_norm: float
    """Squared norm of the VLM's difference, over all of the layer's weights."""
    reasoning_norm: float
    """Squared norm of the reasoning model's difference."""
    vision_share: float
    """``lambda_V``, what the VLM's difference is multiplied by."""

    @property
    def reasoning_share(self) -> float:
        """``lambda_R``, what the reasoning model's difference is multiplied by."""
        return 1 - self.vision_share


@dataclass(frozen=True, kw_only=True)
class Frank(Merge):
    """Mixes the differences of a VLM and of a reasoning model to their common base, layer by layer.

    In layer ``l``: ``base + lambda_V t_V + lambda_R t_R`` with ``lambda_t = w_t |t|^2 / (w_V |t_V|^2 + w_R |t_R|^2)``,
    norms over all of the layer's weights together, so that ``lambda_V + lambda_R = 1``. The prior ``w_V`` falls with
    the depth as the attention to images does, ``log a_l = log C - alpha l``, and ``w_R = 1 - w_V``. The first donor is
    the VLM, the second the reasoning model. Weights outside the decoder's layers stay the target's, which ought to be
    the VLM.

    Source:
        Training-Free Reasoning and Reflection in MLLMs (FRANK), sections 3.1 to 3.2.3, equations 3 to 16
        (from-paper-text). As printed, ``w_V`` adds up to 1 over the layers (``prior_norm: sum``), which in deep models
        leaves the VLM little; ``max`` is ours.
    """

    needs_values: ClassVar[bool] = True
    donor_counts: ClassVar[tuple[int, int | None]] = (2, 2)

    attention: list[float] | None = None
    """Mean attention of text tokens to all visual tokens, one number for each decoder layer; none for no prior."""
    prior_norm: Literal["sum", "max"] = "sum"
    """What the prior is divided by: its sum over the layers, as published, or its largest value."""

    def __post_init__(self) -> None:
        """Refuses attention that is none."""
        if self.attention is not None and not all(math.isfinite(value) and value >= 0 for value in self.attention):
            raise UserError(f"attention is {self.attention}; it is a list of shares, 0 or more")

    def fitted(self, tensors: Iterable[MergeTensors]) -> "FittedFrank":
        """Measures the differences in every decoder layer and finds the coefficients.

        Raises:
            UserError: There are not two donors, no weights of decoder layers, or attention for other layers.
        """
        norms: dict[int, tuple[float, float]] = {}
        layers = 0
        for place, deltas in ((item.place, _differences(item)) for item in tensors if item.place.layer is not None):
            vision, reasoning = (inner_product(delta, delta).item() for delta in deltas)
            before = norms.get(place.layer or 0, (0.0, 0.0))
            norms[place.layer or 0] = (before[0] + vision, before[1] + reasoning)
            layers = place.layers
        if not norms:
            raise UserError("FRANK merges decoder layers, but none of the weights to merge lies in one")
        priors = self._vision_priors(layers)
        return FittedFrank(
            layers=tuple(
                FrankLayer(
                    layer=layer,
                    attention=None if self.attention is None else self.attention[layer],
                    vision_prior=priors[layer],
                    vision_norm=vision,
                    reasoning_norm=reasoning,
                    vision_share=vision_share(vision, reasoning, priors[layer]),
                )
                for layer, (vision, reasoning) in sorted(norms.items())
            )
        )

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Refuses to merge before the coefficients are found."""
        raise RuntimeError("FRANK must be fitted to all weights before it merges the first")

    def _vision_priors(self, layers: int) -> list[float]:
        if self.attention is None:
            return [0.5] * layers
        if len(self.attention) != layers:
            raise UserError(
                f"attention has {len(self.attention)} numbers, but the decoder has {layers} layers; measure it on "
                "the model that is merged"
            )
        return vision_priors(self.attention, self.prior_norm)


@dataclass(frozen=True, kw_only=True)
class FittedFrank(Merge):
    """Mixes two differences by the coefficients that FRANK found; see ``Frank``."""

    needs_values: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    donor_counts: ClassVar[tuple[int, int | None]] = (2, 2)

    layers: tuple[FrankLayer, ...]
    """What was found for each decoder layer that is merged."""

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight; outside the decoder's layers it is the target's."""
        if tensors.place.layer is None:
            return tensors.target.clone()
        vision, reasoning = _differences(tensors)
        value = tensors.donors[0].value
        if value is None:
            raise UserError("FRANK needs the VLM's own weights; its first donor is a difference")
        found = next((layer for layer in self.layers if layer.layer == tensors.place.layer), None)
        if found is None:
            raise RuntimeError(f"FRANK was not fitted to layer {tensors.place.layer}")
        # base + lambda_V t_V + lambda_R t_R, with the base as what the VLM is less its difference.
        share = found.reasoning_share
        return weighted_sum([(whole(value), 1.0), (whole(vision), -share), (whole(reasoning), share)], like=value)


def vision_share(vision_norm: float, reasoning_norm: float, vision_prior: float = 0.5) -> float:
    """Computes ``lambda_V`` of one layer; 1 where there is nothing to divide by, which keeps the base.

    Args:
        vision_norm: ``|t_V|^2``.
        reasoning_norm: ``|t_R|^2``.
        vision_prior: ``w_V``, in [0, 1]; 0.5 is none.

    Example:
        >>> vision_share(4.0, 1.0)
        0.8
    """
    vision, reasoning = vision_prior * vision_norm, (1 - vision_prior) * reasoning_norm
    return vision / (vision + reasoning) if vision + reasoning > 0 else 1.0


def vision_priors(attention: list[float], prior_norm: Literal["sum", "max"] = "sum") -> list[float]:
    """Computes ``w_V`` of each layer from a straight line through the logarithms of the attention, by least squares.

    Args:
        attention: ``a_l``, one number for each decoder layer; those below 1e-12 count as that, with a warning.
        prior_norm: What is divided by: the sum over the layers, or the largest value.

    Example:
        >>> [round(prior, 6) for prior in vision_priors([0.4, 0.2, 0.1])]
        [0.571429, 0.285714, 0.142857]
    """
    if min(attention) < _LEAST_ATTENTION:
        logger.warning("attention to images is 0 in some layers; it counts as %s there", _LEAST_ATTENTION)
    logs = [math.log(max(value, _LEAST_ATTENTION)) for value in attention]
    middle, mean = (len(logs) - 1) / 2, sum(logs) / len(logs)
    spread = sum((layer - middle) ** 2 for layer in range(len(logs)))
    slope = sum((layer - middle) * (log - mean) for layer, log in enumerate(logs)) / spread if spread else 0.0
    largest = max(slope * layer for layer in range(len(logs)))
    decay = [math.exp(slope * layer - largest) for layer in range(len(logs))]
    total = sum(decay) if prior_norm == "sum" else 1.0
    return [value / total for value in decay]


def _differences(tensors: MergeTensors) -> list[Tensor]:
    """Returns the VLM's difference and the reasoning model's."""
    both(tensors, "FRANK")
    if len(tensors.deltas) != 2:
        raise UserError(f"FRANK needs a base that both donors come from; {tensors.place.name} has none")
    return tensors.deltas
