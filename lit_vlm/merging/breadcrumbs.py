"""Model breadcrumbs: drop the smallest numbers of a difference, and the very largest."""

from dataclasses import dataclass

from torch import Tensor

from lit_vlm.functional.magnitude_cut import kept_largest
from lit_vlm.functional.task_vectors import Pieces, Rescaling, rescaling_factor, scaled, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import DonorTensor, WeightPlace
from lit_vlm.merging.delta_merge import DeltaMerge, kept_count


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(DeltaMerge):
    """Keeps of each difference the numbers of largest magnitude behind the outliers, and adds them up.

    With ``sign_election: false`` it is mergekit's ``breadcrumbs``, with ``true`` its ``breadcrumbs_ties``.

    Source:
        Davari and Belilovsky, Model Breadcrumbs (2024), section 3.2; mergekit (confirmed-in-code). Of equal magnitudes
        at a cut the first count as larger; a density that keeps nothing of a weight is an error.
    """

    gamma: float = 0.01
    """Share of a weight's numbers that is dropped as outliers, in [0, 1); fewer where the density leaves no room."""
    rescale: Rescaling = "none"
    """What the numbers that are kept are multiplied by: ``none``, as published, ``l1`` or ``inverse_density``."""

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        super().__post_init__()
        if not 0 <= self.gamma < 1:
            raise UserError(f"gamma is {self.gamma}; it is a share in [0, 1)")

    def pruned(self, donor: DonorTensor, delta: Tensor, place: WeightPlace) -> Pieces:
        """Gives the difference with its smallest and its very largest numbers set to 0."""
        count = kept_count(donor, delta, place)
        if donor.density >= 1:
            return whole(delta)
        outliers = min(int(self.gamma * delta.numel()), delta.numel() - count)
        kept = kept_largest(delta, count, left_out=outliers)
        return scaled(kept, rescaling_factor(delta, kept, donor.density, self.rescale))
