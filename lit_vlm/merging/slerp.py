"""Spherical interpolation between two checkpoints."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lit_vlm.functional.spherical_interpolation import shares_on_sphere
from lit_vlm.functional.task_vectors import inner_products
from lit_vlm.functional.weight_coefficients import WeightCoefficient, coefficient_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.donor_checks import both
from lit_vlm.merging.mixed_donors import MixedDonors


@dataclass(frozen=True, kw_only=True)
class Slerp(Merge):
    """Interpolates between two donors along the arc between them, each weight as one flat vector.

    Source:
        Shoemake, Animating Rotation with Quaternion Curves (1985); mergekit ``slerp`` (confirmed-in-code), where one of
        the two is called the base. Here both are donors, ``t = 0`` being the first.
    """

    needs_values: ClassVar[bool] = True
    needs_deltas: ClassVar[bool] = False
    donor_counts: ClassVar[tuple[int, int | None]] = (2, 2)

    t: WeightCoefficient
    """Where between them: 0 the first donor, 1 the second. A number, anchors over the depth, or rules."""
    threshold: float = 0.9995
    """Cosine, either way, beyond which the interpolation is along the straight line."""

    @property
    def products_of(self) -> Literal["values"]:
        """The donors' own weights."""
        return "values"

    def given_products(self, tensors: MergeTensors, products: Tensor) -> Merge:
        """Returns what adds up the two donors by their shares.

        Raises:
            UserError: There are not two donors, or they have weights.
        """
        self._check(tensors)
        t = coefficient_of(self.t, tensors.place, everywhere=True)
        first, second = shares_on_sphere(products[0, 0], products[1, 1], products[0, 1], t, threshold=self.threshold)
        return MixedDonors(of="values", shares=(first.item(), second.item()))

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: There are not two donors, or they have weights.
        """
        self._check(tensors)
        return self.given_products(tensors, inner_products(tensors.values))(tensors)

    @staticmethod
    def _check(tensors: MergeTensors) -> None:
        both(tensors, "Slerp")
        if len(tensors.values) != 2:
            raise UserError(f"Slerp needs both donors' own weights; a donor of {tensors.place.name} is a difference")
