"""What a rank holds of a tensor: all of it, a shard, or a piece of a flat row; and sums over what all ranks hold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.placement_types import Shard

from lit_vlm.interfaces.weights import FlatPiece


class WeightPiece(ABC):
    """Cuts whole tensors as a strategy has cut a parameter, and puts them together again."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    groups: Sequence[dist.ProcessGroup]
    """Sums over all of them, one after the other, are sums over the whole tensor; none where it lies here whole."""

    @property
    def is_cut(self) -> bool:
        """Whether other ranks hold the rest, so that all must take part in sums."""
        return bool(self.groups)

    def local(self, tensor: Tensor) -> Tensor:
        """Returns what lies here of the parameter or its gradient, sharing memory with it."""
        return tensor

    @abstractmethod
    def of(self, whole: Tensor) -> Tensor:
        """Cuts out of a whole tensor what belongs to this rank, in the shape of ``local``."""

    @abstractmethod
    def whole(self, parameter: Tensor) -> Tensor:
        """Puts the parameter together from what all ranks hold."""

    def total(self, sums: Tensor) -> Tensor:
        """Adds up sums over pieces, in place, so that they are sums over the whole tensor."""
        for group in self.groups:
            dist.all_reduce(sums, group=group)
        return sums

    def rows(self) -> slice:
        """Gives this rank a share of the whole tensor's rows, none given twice, for work that goes by rows."""
        rank, size = 0, 1
        for group in self.groups:
            rank, size = rank * dist.get_world_size(group) + dist.get_rank(group), size * dist.get_world_size(group)
        most = math.ceil(self.shape[0] / size)
        return slice(min(rank * most, self.shape[0]), min((rank + 1) * most, self.shape[0]))


class WholeTensor(WeightPiece):
    """All of it lies here."""

    def __init__(self, parameter: Tensor) -> None:
        self.shape = tuple(parameter.shape)
        self.groups = ()

    def of(self, whole: Tensor) -> Tensor:
        """Returns the tensor as it is."""
        return whole

    def whole(self, parameter: Tensor) -> Tensor:
        """Returns the parameter as it is."""
        return parameter.detach()


class PlacedShard(WeightPiece):
    """A shard of a DTensor."""

    def __init__(self, parameter: DTensor) -> None:
        self.shape = tuple(parameter.shape)
        mesh = parameter.device_mesh
        self._mesh, self._placements = mesh, parameter.placements
        self.groups = [
            mesh.get_group(index) for index, place in enumerate(self._placements) if isinstance(place, Shard)
        ]

    def local(self, tensor: Tensor) -> Tensor:
        """Returns the shard."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def of(self, whole: Tensor) -> Tensor:
        """Cuts out the shard; ranks need not talk, as each has the whole tensor."""
        return distribute_tensor(whole, self._mesh, self._placements, src_data_rank=None).to_local()

    def whole(self, parameter: Tensor) -> Tensor:
        """Gathers the shards."""
        return cast(DTensor, parameter.detach()).full_tensor()


class RowPiece(WeightPiece):
    """A piece of a flat row."""

    def __init__(self, piece: FlatPiece) -> None:
        self.shape = piece.shape
        self.groups = (piece.group,)
        self._own = slice(piece.start, piece.stop)

    def of(self, whole: Tensor) -> Tensor:
        """Cuts out the piece, flat."""
        return whole.reshape(-1)[self._own]

    def whole(self, parameter: Tensor) -> Tensor:
        """Gathers the pieces."""
        flat = parameter.new_zeros(math.prod(self.shape))
        flat[self._own] = parameter.detach().reshape(-1)
        return self.total(flat).view(self.shape)


def piece_of(parameter: Tensor, piece: FlatPiece | None) -> WeightPiece:
    """Tells what of a parameter lies here.

    Args:
        parameter: As the strategy left it.
        piece: What is known of it, where it was cut out of a flat row.
    """
    if piece is not None:
        return RowPiece(piece)
    return PlacedShard(parameter) if isinstance(parameter, DTensor) else WholeTensor(parameter)


def own_copy(piece: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Copies a piece into main memory, where the accelerator can fetch it while it computes.

    Args:
        piece: What to copy; what it was cut out of may be let go.
        like: Lies on the device that will fetch it.
        dtype: Type of the copy.
    """
    copy = piece.detach().to("cpu", dtype, copy=True).contiguous()
    return copy.pin_memory() if like.device.type == "cuda" else copy
