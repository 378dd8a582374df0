"""Weights as things to compute with: where they come from, which place they have in a model, and what a merge sees.

Names of weights come in three forms. *On disk* they are what a checkpoint's files say; *in memory* they are what
``named_parameters`` says, which differs by family; *canonical* names are the same for a text model and for the decoder
of a VLM: ``layers.3.self_attn.q_proj.weight``, ``embed_tokens.weight``, ``norm.weight``, ``lm_head.weight``. See
``lit_vlm.functional.weight_names``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

WeightGroup = Literal["attn", "mlp", "norm", "other", "embed", "final_norm", "head", "vision", "projector"]
"""What a weight is for. The first four lie in the decoder's layers, ``norm`` is a layer's own; ``other`` are weights of
a layer that are none of these, such as a router."""


@dataclass(frozen=True)
class WeightPlace:
    """Which place a weight has in its model."""

    name: str
    """On disk."""
    group: WeightGroup
    layer: int | None
    """Decoder layer, from 0; None outside the layers."""
    layers: int
    """Decoder layers of the model."""


@dataclass(frozen=True)
class ModelReference:
    """Names a checkpoint in a recipe."""

    model: str
    """Hub id, local folder, or ``tiny`` for the model in the package."""
    adapter: str | None = None
    """Folder of a PEFT adapter that is to count as a part of the weights."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    def __str__(self) -> str:
        return self.model if self.adapter is None else f"{self.model} with {self.adapter}"


class NamedTensors(ABC):
    """Weights under names, read one at a time."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of all weights, in the order of the files."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a weight's shape, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Returns the type a weight is stored in, without reading it; of a quantised one, what it stands for."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Reads one weight, whole and on the CPU, in the type it is stored in; not to be changed in place.

        It is float32 where that type would round what it stands for, as of weights that were quantised or that an
        adapter changes.
        """


class TensorSource(NamedTensors):
    """The weights of a checkpoint, read one at a time; nothing is held in memory between reads.

    Names are those on disk, without what only quantisation wrote beside a weight.
    """

    @property
    @abstractmethod
    def label(self) -> str:
        """What messages and reports call it."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The local folder that holds it, with configuration, tokenizer and processor."""

    @property
    @abstractmethod
    def configuration(self) -> Mapping[str, Any]:
        """What ``config.json`` says; empty where there is none."""

    def pieces(self, name: str) -> Callable[[int, int], Tensor]:
        """Returns what gives any stretch ``(start, stop)`` of one flattened weight, in the type that ``read`` has.

        It may be called in several threads; what it gives is to be read only. Here the whole weight is read at once,
        and kept as long as what is returned.
        """
        flat = self.read(name).reshape(-1)
        return lambda start, stop: flat[start:stop]

    @abstractmethod
    def vocabulary(self) -> Mapping[str, int]:
        """Returns the tokenizer's tokens with their ids, added ones too.

        Raises:
            UserError: There is no tokenizer.
        """

    @abstractmethod
    def digests(self) -> Mapping[str, str]:
        """Hashes the files that hold the weights: name of the file -> SHA-256, hexadecimal."""

    @contextmanager
    def opened(self) -> Iterator[TensorSource]:
        """Keeps files open over many reads, where that saves time."""
        yield self


class SourceOpener(Protocol):
    """Finds a checkpoint, from the hub, a folder or the package."""

    def __call__(self, reference: ModelReference) -> TensorSource:
        """Opens it; no weight is read.

        Raises:
            UserError: There is no such checkpoint, or it is no safetensors.
        """


@dataclass(frozen=True)
class DonorTensor:
    """One weight of a donor, in the shape of the target's."""

    weight: float
    """The donor's coefficient for this weight."""
    density: float
    """Share of the difference that is kept, in (0, 1]; operations without pruning leave it unread."""
    value: Tensor | None
    """The weight itself, float32; None where only the difference is known (a saved vector)."""
    delta: Tensor | None
    """The weight less the base's, float32; None where the merge has no base."""
    seed: int
    """For what is drawn at random: from the run's seed, the weight's name and the donor's place."""


@dataclass(frozen=True)
class MergeTensors:
    """One weight of all models of a merge."""

    place: WeightPlace
    target: Tensor
    """What donors are added to, float32."""
    donors: Sequence[DonorTensor]

    @property
    def values(self) -> list[Tensor]:
        """The donors' weights; operations that need them say so, and are given them."""
        return [donor.value for donor in self.donors if donor.value is not None]

    @property
    def deltas(self) -> list[Tensor]:
        """The donors' differences to their bases; operations that need them say so, and are given them."""
        return [donor.delta for donor in self.donors if donor.delta is not None]


@dataclass(frozen=True)
class FlatPiece:
    """What this rank holds of a tensor that a strategy has laid out as one row and cut up."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    """Number of the flattened tensor that the piece begins with."""
    stop: int
    """Number that follows its last; ``start`` where the rank holds nothing of the tensor."""
    group: dist.ProcessGroup
    """The ranks that hold the pieces of the tensor."""


@dataclass(frozen=True)
class LowRankFactors:
    """``scale * outer @ inner`` is what an adapter adds to a weight; only the factors train."""

    inner: nn.Parameter
    """``A``, shape ``(r, in)``."""
    outer: nn.Parameter
    """``B``, shape ``(out, r)``."""
    scale: float
    inner_piece: FlatPiece | None = None
    """What of ``inner`` lies here, where it is cut into flat pieces."""
    outer_piece: FlatPiece | None = None
    """What of ``outer`` lies here, where it is cut into flat pieces."""


@dataclass(frozen=True)
class TrainedWeight:
    """A weight of the model that training changes: itself, or by factors of low rank."""

    name: str
    """In memory, without what wrappers and adapters write into it."""
    shape: tuple[int, ...]
    """Of the whole weight, also where a strategy has cut it up."""
    parameter: nn.Parameter | None
    """The weight itself, perhaps a DTensor; None where it is frozen under an adapter."""
    factors: LowRankFactors | None = None
    piece: FlatPiece | None = None
    """What of ``parameter`` lies here, where it is cut into flat pieces."""


@runtime_checkable
class OffersWeights(Protocol):
    """A module that lets transforms of gradients see what it trains; known from ``on_train_start`` on."""

    def trained_weights(self) -> Sequence[TrainedWeight]:
        """Lists what trains.

        Raises:
            UserError: The strategy keeps gradients where they cannot be reached, or an adapter is no sum.
        """

    def initial_weights(self) -> TensorSource:
        """Opens the checkpoint that the model was loaded from, unquantised.

        Raises:
            UserError: There is none: the weights were drawn anew.
        """

    def open_weights(self, reference: ModelReference) -> TensorSource:
        """Opens another checkpoint.

        Raises:
            UserError: There is no such checkpoint, or it is no safetensors.
        """
