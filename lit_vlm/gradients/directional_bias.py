"""Tilts the gradients of a decoder so that training moves towards the weights of another checkpoint."""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_vlm.functional.decoder_settings import unlike_settings
from lit_vlm.functional.gradient_directions import SMALLEST_NORM, BiasMode
from lit_vlm.functional.weight_coefficients import CoefficientRule, WeightCoefficient, check_filters, coefficient_of
from lit_vlm.functional.weight_names import canonical_name, decoder_layers, weight_place
from lit_vlm.gradients.attached_bias import AttachedBias, BiasedWeight
from lit_vlm.gradients.prior_deltas import DecoderWeights, check_decoders
from lit_vlm.gradients.weight_pieces import own_copy, piece_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import GradientTransform
from lit_vlm.interfaces.weights import ModelReference, OffersWeights, TrainedWeight, WeightPlace

BiasedModule = Literal["attn", "mlp", "q", "k", "v", "o", "gate", "up", "down"]

_PROJECTION = re.compile(r"\.(?P<module>\w+)_proj\.(?:weight|bias)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DirectionalBias(GradientTransform):
    """Subtracts from each gradient a multiple of the difference between a prior's weight and the model's own.

    The difference ``d = prior - start`` is computed once, from the checkpoints on disk, so that a resumed run goes by
    the same one; it is kept in main memory, for the weights it acts on, and cut up as a strategy cuts the weights. The
    step ``-g'`` then leads towards the prior; see ``lit_vlm.functional.gradient_directions`` for the rules. Under a
    low-rank adapter each factor is biased along the projection of ``d`` on it, as it is at that step; ``start`` is the
    checkpoint without the adapter, and unquantised.

    Source:
        DRIFT: Directional Reasoning Injection for Fine-Tuning MLLMs (2025), with the authors' code WikiChao/DRIFT
        (confirmed-in-code for rules, choice of weights and defaults; the two-prior form too). The code tilts each
        micro-batch's gradient on each device; here the whole step's is tilted. It acts on nothing, in silence, where
        names differ or an adapter wraps the weights; here names are mapped, and nothing to act on is an error. The
        form for adapters is ours (reconstructed). Its ``rescale`` is on by default, without effect in its default mode.
    """

    prior: str | ModelReference
    """The reasoning model: hub id, local folder, ``tiny``, or a model with an adapter, revision and so on."""
    base: str | ModelReference | None = None
    """Where the direction starts from, ``d = prior - base``; None: from the model that trains."""
    alpha: WeightCoefficient = 1.0
    """Strength: a number, anchors over the layers, or rules with filters; weights with 0 are left alone."""
    mode: BiasMode = "adaptive_cosine"
    """``absolute`` subtracts ``alpha d``; ``gradnorm`` a vector along ``d`` as long as the gradient;
    ``adaptive_cosine`` that vector, the shorter the more the step leads towards the prior already."""
    modules: tuple[BiasedModule, ...] = ("attn", "mlp")
    """Projections of the decoder's layers: ``attn`` (q, k, v, o), ``mlp`` (gate, up, down) or single ones, with their
    biases; a bias that the prior lacks counts as 0."""
    skip_first_layers: int = 0
    """Layers at the input that are left alone."""
    only_layers: list[int] | None = None
    """Layers to act on, from 0; None: all."""
    rescale: bool = False
    """Whether ``d`` is brought to the length of the model's own weight; matters in mode ``absolute`` alone."""
    keep_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that ``d`` is kept in; bfloat16 halves memory and traffic."""

    def __post_init__(self) -> None:
        """Refuses settings that mean nothing."""
        if self.mode not in get_args(BiasMode):
            raise UserError(f"mode of DirectionalBias is {self.mode!r}; give one of {', '.join(get_args(BiasMode))}")
        numbers = [self.alpha] if isinstance(self.alpha, int | float) else self.alpha
        if not numbers or not all(isinstance(item, CoefficientRule) or math.isfinite(item) for item in numbers):
            raise UserError(f"alpha of DirectionalBias is {self.alpha}; give finite numbers")
        unknown = sorted(set(self.modules) - set(get_args(BiasedModule)))
        if unknown or not self.modules:
            raise UserError(
                f"modules of DirectionalBias are {list(self.modules)}; choose from {', '.join(get_args(BiasedModule))}"
            )
        if self.skip_first_layers < 0 or self.only_layers == [] or any(layer < 0 for layer in self.only_layers or ()):
            raise UserError(
                f"DirectionalBias has skip_first_layers {self.skip_first_layers} and only_layers {self.only_layers}; "
                "layers count from 0, and at least one must be left"
            )

    def check(self, module: OffersWeights) -> None:
        """Refuses checkpoints that are not there or of another depth, and layers and filters that find nothing.

        Raises:
            UserError: One of them.
        """
        start, prior, base = self._opened(module)
        check_decoders(start, [prior, base], {})
        self._check_layers(start.layers)
        places = [weight_place(name, start.layers) for name in start.names.values()]
        check_filters(self.alpha, [place for place in places if self._takes(place)], "alpha of DirectionalBias")

    def attach(self, module: OffersWeights) -> AttachedBias:
        """Chooses weights, and reads the direction of each, one after the other.

        Raises:
            UserError: No weight that trains is chosen; checkpoints do not fit; all differences are 0.
        """
        start, prior, base = self._opened(module)
        for other in (prior, base):
            if unlike := unlike_settings(start.source.configuration, other.source.configuration):
                logger.warning(
                    "the same weights are another function in %s than in %s: %s; their difference may mislead",
                    other.source.label,
                    start.source.label,
                    ", ".join(unlike),
                )
        chosen = self._chosen(module.trained_weights(), start.layers)
        check_decoders(start, [prior, base], {name: weight.shape for name, weight in chosen.items()})
        places = {name: weight_place(start.names[name], start.layers) for name in chosen}
        check_filters(self.alpha, places.values(), "alpha of DirectionalBias")
        biased = []
        with prior.source.opened(), base.source.opened():
            for name, weight in chosen.items():
                alpha = coefficient_of(self.alpha, places[name])
                if alpha and (found := self._biased(name, weight, alpha, start, prior, base)) is not None:
                    biased.append(found)
        self._report(biased, list(places.values()), prior, base)
        return AttachedBias(biased, self.mode)

    def _opened(self, module: OffersWeights) -> tuple[DecoderWeights, DecoderWeights, DecoderWeights]:
        """Opens where training starts, the prior, and what the direction starts from."""
        start = DecoderWeights(module.initial_weights())
        prior = DecoderWeights(module.open_weights(_reference(self.prior)))
        return start, prior, start if self.base is None else DecoderWeights(module.open_weights(_reference(self.base)))

    def _check_layers(self, layers: int) -> None:
        beyond = [layer for layer in self.only_layers or () if layer >= layers]
        if beyond:
            raise UserError(
                f"only_layers of DirectionalBias has {', '.join(map(str, beyond))}, but the decoder has layers 0 to "
                f"{layers - 1}; leave out what is beyond"
            )

    def _chosen(self, weights: Sequence[TrainedWeight], layers: int) -> dict[str, TrainedWeight]:
        decoder = {known: weight for weight in weights if (known := canonical_name(weight.name)) is not None}
        if not decoder_layers(decoder):
            others = f", only others {_examples([weight.name for weight in weights])}" if weights else ""
            raise UserError(
                f"DirectionalBias acts on the layers of the decoder, of which nothing trains{others}; train the "
                "language part, with model.backbone.train_parts or an adapter's parts"
            )
        self._check_layers(layers)
        chosen = {name: weight for name, weight in decoder.items() if self._takes(weight_place(name, layers))}
        if not chosen:
            raise UserError(
                f"DirectionalBias with modules {list(self.modules)}, skip_first_layers {self.skip_first_layers} and "
                f"only_layers {self.only_layers} chooses none of the {len(decoder)} weights that train in the decoder "
                f"of {layers} layers, {_examples(list(decoder))}; choose others"
            )
        return chosen

    def _takes(self, place: WeightPlace) -> bool:
        found = _PROJECTION.search(place.name)
        if found is None or place.layer is None or place.layer < self.skip_first_layers:
            return False
        if self.only_layers is not None and place.layer not in self.only_layers:
            return False
        return place.group in self.modules or found["module"] in self.modules

    def _biased(
        self,
        name: str,
        weight: TrainedWeight,
        alpha: float,
        start: DecoderWeights,
        prior: DecoderWeights,
        base: DecoderWeights,
    ) -> BiasedWeight | None:
        """Reads one weight's direction and keeps what of it lies here; None where it is 0."""
        ends = prior.read(name, weight.shape), base.read(name, weight.shape)
        delta = ends[0] - ends[1]
        length = delta.norm()
        if not bool(length.isfinite()):
            damaged = base if bool(ends[0].isfinite().all()) else prior
            raise UserError(
                f"{name} of {damaged.source.label} holds NaN or infinity; the checkpoint is damaged, fetch it again or "
                "give another"
            )
        if float(length) < SMALLEST_NORM:
            return None
        if self.rescale:
            delta = delta * (start.read(name, weight.shape).norm() / length)
        return _cut(weight, delta, alpha, torch.bfloat16 if self.keep_dtype == "bfloat16" else torch.float32)

    def _report(
        self, biased: list[BiasedWeight], places: list[WeightPlace], prior: DecoderWeights, base: DecoderWeights
    ) -> None:
        acting = sum(coefficient_of(self.alpha, place) != 0 for place in places)
        if acting and not biased:
            raise UserError(
                f"the direction is zero everywhere: {prior.source.label} and {base.source.label} have the same "
                f"{acting} weights; give another prior"
            )
        logger.log(
            logging.INFO if acting else logging.WARNING,
            "directional bias: %d of %d chosen weights are biased (%d with alpha 0, %d without a difference)",
            len(biased),
            len(places),
            len(places) - acting,
            acting - len(biased),
        )


def _cut(weight: TrainedWeight, delta: Tensor, alpha: float, dtype: torch.dtype) -> BiasedWeight:
    if weight.factors is not None:
        outer = weight.factors.outer
        piece = piece_of(outer, weight.factors.outer_piece)
        direction = own_copy(delta[piece.rows()], outer, dtype)
        return BiasedWeight(weight.name, weight.factors, piece, direction, alpha)
    if weight.parameter is None:
        raise RuntimeError(f"{weight.name} has neither a parameter nor factors that train")
    piece = piece_of(weight.parameter, weight.piece)
    direction = own_copy(piece.of(delta), weight.parameter, dtype)
    return BiasedWeight(weight.name, weight.parameter, piece, direction, alpha)


def _reference(prior: str | ModelReference) -> ModelReference:
    return ModelReference(prior) if isinstance(prior, str) else prior


def _examples(names: Sequence[str]) -> str:
    return f"such as {', '.join(names[:3])}"
