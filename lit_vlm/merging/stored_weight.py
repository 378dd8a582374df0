"""One weight of all models of a merge, read from the files and turned into float32 piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.functional.piece_threads import PieceThreads
from lit_vlm.functional.recycled_memory import RecycledMemory
from lit_vlm.functional.task_vectors import Pieces
from lit_vlm.interfaces.weights import DonorTensor, MergeTensors, WeightPlace


@dataclass(frozen=True, eq=False)
class StoredDonor:
    """What the files hold of one donor's weight."""

    weight: float
    density: float
    seed: int
    own: Pieces
    """The donor's weight, or of a saved vector the difference; in the target's shape."""
    base: Pieces | None
    """What it differs from; None where there is no base, and of a vector."""
    is_vector: bool
    needs_value: bool
    """Whether the operation reads the weight itself."""


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """One weight of all models, in the types of the files; what several have in common is one object."""

    place: WeightPlace
    shape: tuple[int, ...]
    target: Pieces
    donors: Sequence[StoredDonor]

    def piece(self, start: int, stop: int) -> MergeTensors:
        """Returns a stretch of the flattened weight as float32, to be read only."""
        known: dict[int, Tensor] = {}

        def single(stored: Pieces) -> Tensor:
            if id(stored) not in known:
                known[id(stored)] = stored(start, stop).float()
            return known[id(stored)]

        donors = []
        for donor in self.donors:
            own = single(donor.own)
            delta = own if donor.is_vector else None if donor.base is None else own - single(donor.base)
            donors.append(
                DonorTensor(donor.weight, donor.density, own if donor.needs_value else None, delta, donor.seed)
            )
        return MergeTensors(self.place, single(self.target), donors)

    def whole(self, memory: RecycledMemory, threads: PieceThreads) -> MergeTensors:
        """Returns all of the weight as float32."""
        rooms: dict[int, Tensor] = {}

        def room(stored: Pieces) -> Tensor:
            if id(stored) not in rooms:
                rooms[id(stored)] = memory.empty(self.shape, torch.float32)
            return rooms[id(stored)]

        def delta_room(donor: StoredDonor) -> Tensor | None:
            has_delta = donor.is_vector or donor.base is not None
            return memory.empty(self.shape, torch.float32) if has_delta else None

        target = room(self.target)
        donors = [
            DonorTensor(
                donor.weight,
                donor.density,
                room(donor.own) if donor.needs_value else None,
                delta_room(donor),
                donor.seed,
            )
            for donor in self.donors
        ]

        def fill(start: int, stop: int) -> None:
            piece = self.piece(start, stop)
            target.view(-1)[start:stop] = piece.target
            for donor, part in zip(donors, piece.donors, strict=True):
                for into, numbers in ((donor.value, part.value), (donor.delta, part.delta)):
                    if into is not None and into is not target and numbers is not None:
                        into.view(-1)[start:stop] = numbers

        for _ in threads.over(target.numel(), fill):
            pass
        return MergeTensors(self.place, target, donors)
