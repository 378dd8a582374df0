"""Sums of donors with one factor each: what several operations come down to once the factors are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_vlm.functional.task_vectors import weighted_sum, whole
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors


@dataclass(frozen=True, kw_only=True)
class MixedDonors(Merge):
    """Adds up the donors' own weights, or the target and the donors' differences, each donor times its share.

    A share of 0 leaves its donor out, so that a single share of 1 gives that donor's weight bit for bit.
    """

    elementwise: ClassVar[bool] = True

    of: Literal["values", "deltas"]
    """What of the donors is added up; only ``deltas`` are added to the target."""
    shares: tuple[float, ...]
    """One for each donor."""

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight, or a stretch of it."""
        terms = [(tensors.target, 1.0)] if self.of == "deltas" else []
        for share, tensor in zip(self.shares, summands(tensors, self.of), strict=True):
            if share != 0:
                terms.append((tensor, share))
        if not terms:
            return torch.zeros_like(tensors.target)
        return weighted_sum([(whole(tensor), share) for tensor, share in terms], like=tensors.target)


def summands(tensors: MergeTensors, of: Literal["values", "deltas"]) -> Sequence[Tensor]:
    """Returns the donors' own weights or their differences."""
    return tensors.values if of == "values" else tensors.deltas
