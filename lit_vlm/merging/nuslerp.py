"""Spherical interpolation with weights, of whole checkpoints or of their differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lit_vlm.functional.spherical_interpolation import interpolated_on_sphere, shares_on_sphere
from lit_vlm.functional.task_vectors import inner_products
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.donor_checks import both
from lit_vlm.merging.mixed_donors import MixedDonors, summands

_NO_WEIGHT = 1e-6
_STRAIGHT = 1 - 1e-12


@dataclass(frozen=True, kw_only=True)
class NuSlerp(Merge):
    """Interpolates between two donors along the arc between them, at ``t = w_2 / (w_1 + w_2)``.

    Source:
        mergekit ``nuslerp`` without a base (confirmed-in-code). ``angle: rows`` is its ``nuslerp_flatten: false``,
        ``columns`` has ``nuslerp_row_wise: true`` beside it.
    """

    needs_values: ClassVar[bool] = True
    needs_deltas: ClassVar[bool] = False
    donor_counts: ClassVar[tuple[int, int | None]] = (2, 2)

    angle: Literal["weight", "rows", "columns"] = "weight"
    """What has an angle of its own: a weight as one flat vector, each vector along its last dimension, or each along
    its first."""

    @property
    def products_of(self) -> Literal["values", "deltas"] | None:
        """What is interpolated, where it has one angle."""
        return self._interpolated if self.angle == "weight" else None

    def given_products(self, tensors: MergeTensors, products: Tensor) -> Merge:
        """Returns what adds up the two donors by their shares.

        Raises:
            UserError: There are not two donors, or one is a difference where weights are interpolated.
        """
        self._pair(tensors)
        first, second = shares_on_sphere(
            products[0, 0], products[1, 1], products[0, 1], self._place(tensors), threshold=_STRAIGHT
        )
        return MixedDonors(of=self._interpolated, shares=(first.item(), second.item()))

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: There are not two donors, or one is a difference where weights are interpolated.
        """
        first, second = self._pair(tensors)
        if self.angle == "weight":
            return self.given_products(tensors, inner_products([first, second]))(tensors)
        turns = self.angle == "columns" and first.ndim > 1
        if turns:
            first, second = (tensor.movedim(0, -1).contiguous() for tensor in (first, second))
        result = interpolated_on_sphere(first, second, self._place(tensors), threshold=_STRAIGHT, per_row=True)
        if turns:
            result = result.movedim(-1, 0).contiguous()
        return result if self._interpolated == "values" else result.add_(tensors.target)

    @property
    def _interpolated(self) -> Literal["values", "deltas"]:
        return "values" if self.needs_values else "deltas"

    def _pair(self, tensors: MergeTensors) -> Sequence[Tensor]:
        both(tensors, type(self).__name__, weighted=True)
        pair = summands(tensors, self._interpolated)
        if len(pair) != 2:
            raise UserError(f"NuSlerp needs both donors' own weights; a donor of {tensors.place.name} is a difference")
        return pair

    @staticmethod
    def _place(tensors: MergeTensors) -> float:
        """Where between the donors; halfway where their weights add up to 0."""
        weight, other = (donor.weight for donor in tensors.donors)
        total = weight + other
        return 0.5 if abs(total) < _NO_WEIGHT else other / total


@dataclass(frozen=True, kw_only=True)
class NuSlerpDifferences(NuSlerp):
    """Interpolates between two donors' differences along the arc between them, and adds that to the target.

    Source:
        mergekit ``nuslerp`` with a base (confirmed-in-code).
    """

    needs_values: ClassVar[bool] = False
    needs_deltas: ClassVar[bool] = True
