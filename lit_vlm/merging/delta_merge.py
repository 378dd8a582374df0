"""What the operations on differences share: prune each, agree on signs or not, add up, scale, add to the target."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_vlm.functional.task_vectors import Pieces, plus_agreeing, weighted_sum, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import DonorTensor, MergeTensors, WeightPlace

_NO_WEIGHT = 1e-8


@dataclass(frozen=True, kw_only=True)
class DeltaMerge(Merge):
    """Adds a mix of the donors' differences to the target: ``target + scale * mix_i(w_i * pruned(t_i))``.

    Source:
        mergekit ``generalized_task_arithmetic.py`` (confirmed-in-code) for the family. A donor of weight 0 takes no
        part there either; here the target is then returned bit for bit.
    """

    prunes: ClassVar[bool] = True

    scale: float = 1.0
    """Factor of the mixed difference; mergekit's ``lambda``."""
    normalize: bool = False
    """Whether to divide the sum by the sum of the weights; with ``sign_election`` by those that agree."""
    sign_election: bool = False
    """Whether only differences count whose sign is that of the weighted sum, number by number, as TIES has it."""

    def __post_init__(self) -> None:
        """Refuses a scale that is no number."""
        if not math.isfinite(self.scale):
            raise UserError(f"scale is {self.scale}; it must be finite")

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight."""
        present = [(donor, donor.delta) for donor in tensors.donors if donor.delta is not None and donor.weight != 0]
        if not present or self.scale == 0:
            return tensors.target.clone()
        deltas = [self.pruned(donor, delta, tensors.place) for donor, delta in present]
        weights = [donor.weight for donor, _ in present]
        if self.sign_election:
            return plus_agreeing(tensors.target, deltas, weights, scale=self.scale, normalize=self.normalize)
        total = sum(weights) if self.normalize else 1.0
        factor = self.scale / (total if abs(total) >= _NO_WEIGHT else 1.0)
        terms = [(delta, weight * factor) for delta, weight in zip(deltas, weights, strict=True)]
        return weighted_sum([(whole(tensors.target), 1.0), *terms], like=tensors.target)

    @abstractmethod
    def pruned(self, donor: DonorTensor, delta: Tensor, place: WeightPlace) -> Pieces:
        """Gives what is left of a donor's difference, in pieces, not yet weighted."""


def checked_density(donor: DonorTensor, place: WeightPlace) -> float:
    """Returns the share of a donor's difference that is kept.

    Raises:
        UserError: It is not above 0.
    """
    if not donor.density > 0:
        raise UserError(
            f"density is {donor.density} for {place.name}; it must be above 0 (to leave a donor out, give it weight 0)"
        )
    return donor.density


def kept_count(donor: DonorTensor, delta: Tensor, place: WeightPlace) -> int:
    """Returns how many numbers of a donor's difference are kept: ``int(density * count)``.

    Raises:
        UserError: None would be.
    """
    count = min(int(checked_density(donor, place) * delta.numel()), delta.numel())
    if not count and delta.numel():
        raise UserError(
            f"density {donor.density} keeps none of the {delta.numel()} numbers of {place.name}; raise it for this "
            "weight"
        )
    return count
