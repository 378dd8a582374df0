"""Differences of two checkpoints, weight by weight, for the weights that a decoder trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_vlm.functional.weight_names import canonical_name, decoder_layers
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import TensorSource

SHOWN = 4
"""Names that a message lists at most."""


class DecoderWeights:
    """The decoder of a checkpoint, by canonical names.

    Args:
        source: The checkpoint, of a text model or a vision-language model.
    """

    def __init__(self, source: TensorSource) -> None:
        self.source = source
        self.names = {known: name for name in source.names if (known := canonical_name(name)) is not None}
        self.layers = decoder_layers(self.names)

    def lacks(self, name: str) -> bool:
        """Tells whether a weight is not there; a bias is not missed where its matrix is there."""
        return name not in self.names and not self._is_zero_bias(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Returns a weight's shape; None for a bias that counts as 0."""
        return self.source.shape(self.names[name]) if name in self.names else None

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Reads a weight, float32; a bias that is not there is 0."""
        return self.source.read(self.names[name]).float() if name in self.names else torch.zeros(shape)

    def _is_zero_bias(self, name: str) -> bool:
        return name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in self.names


def check_decoders(start: DecoderWeights, others: Sequence[DecoderWeights], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuses checkpoints whose difference has no meaning for the weights that are trained.

    Args:
        start: The checkpoint that training starts from.
        others: Those that the differences are taken of.
        shapes: Trained weights by canonical name, with their shapes.

    Raises:
        UserError: One has another number of layers, lacks weights, or has others of the same name.
    """
    for other in (start, *others):
        label = other.source.label
        if other.layers != start.layers:
            raise UserError(
                f"the decoder of {label} has {other.layers} layers, that of {start.source.label} {start.layers}; give "
                "a prior of the same family and size"
            )
        missing = [name for name in shapes if other.lacks(name)]
        if missing:
            raise UserError(
                f"{label} lacks {len(missing)} of the {len(shapes)} weights to bias, {_listed(missing)}; it has "
                f"{_listed(list(other.names.values())) or 'no decoder'}; give a prior of the same family, or leave the "
                "weights out with modules, skip_first_layers or only_layers"
            )
        differing = [
            f"{name} {list(found)} instead of {list(shape)}"
            for name, shape in shapes.items()
            if (found := other.shape(name)) not in (None, shape)
        ]
        if differing:
            raise UserError(
                f"{label} has {len(differing)} weights of other shapes than the model that trains: "
                f"{_listed(differing)}; give a prior of the same size"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
