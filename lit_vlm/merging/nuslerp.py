"""Spherical interpolation with weights, of whole checkpoints or of their differences."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lit_vlm.functional.spherical_interpolation import interpolated_on_sphere
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.donor_checks import both

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

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: There are not two donors with weights of their own.
        """
        both(tensors, type(self).__name__, weighted=True)
        if len(tensors.values) != 2:
            raise UserError(f"NuSlerp needs both donors' own weights; a donor of {tensors.place.name} is a difference")
        return self.between(tensors, *tensors.values)

    def between(self, tensors: MergeTensors, first: Tensor, second: Tensor) -> Tensor:
        """Interpolates between two tensors by the donors' weights; halfway where these add up to 0."""
        weight, other = (donor.weight for donor in tensors.donors)
        total = weight + other
        t = 0.5 if abs(total) < _NO_WEIGHT else other / total
        if self.angle != "columns" or first.ndim < 2:
            per_row = self.angle != "weight"
            return interpolated_on_sphere(first, second, t, threshold=_STRAIGHT, per_row=per_row)
        turned = interpolated_on_sphere(
            first.movedim(0, -1).contiguous(), second.movedim(0, -1).contiguous(), t, threshold=_STRAIGHT, per_row=True
        )
        return turned.movedim(-1, 0).contiguous()


@dataclass(frozen=True, kw_only=True)
class NuSlerpDifferences(NuSlerp):
    """Interpolates between two donors' differences along the arc between them, and adds that to the target.

    Source:
        mergekit ``nuslerp`` with a base (confirmed-in-code).
    """

    needs_values: ClassVar[bool] = False
    needs_deltas: ClassVar[bool] = True

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: There are not two donors.
        """
        both(tensors, type(self).__name__, weighted=True)
        return self.between(tensors, *tensors.deltas).add_(tensors.target)
