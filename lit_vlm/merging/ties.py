"""TIES: trim differences, elect a sign for each number, and average what agrees."""

from dataclasses import dataclass

from torch import Tensor

from lit_vlm.functional.magnitude_cut import kept_largest
from lit_vlm.functional.task_vectors import Pieces, Rescaling, rescaling_factor, scaled, whole
from lit_vlm.interfaces.weights import DonorTensor, WeightPlace
from lit_vlm.merging.delta_merge import DeltaMerge, kept_count


@dataclass(frozen=True, kw_only=True)
class TIES(DeltaMerge):
    """Keeps of each difference the numbers of largest magnitude, and averages those whose sign wins.

    A donor's density is the share of its numbers that is kept, in each weight; the paper keeps 0.2. Without
    ``sign_election`` and ``normalize`` it is task arithmetic with magnitude pruning.

    Source:
        Yadav et al., TIES-Merging: Resolving Interference When Merging Models (2023), section 4; mergekit ``ties``
        (confirmed-in-code). The paper trims over the whole model, mergekit and this weight by weight. Of equal
        magnitudes at the cut the first are kept, where mergekit keeps whichever its sort gives; a density that keeps
        nothing of a weight is an error, where mergekit keeps one number.
    """

    normalize: bool = True
    sign_election: bool = True
    rescale: Rescaling = "none"
    """What the numbers that are kept are multiplied by: ``none``, as published, ``l1`` or ``inverse_density``."""

    def pruned(self, donor: DonorTensor, delta: Tensor, place: WeightPlace) -> Pieces:
        """Gives the difference with all but its largest numbers set to 0."""
        count = kept_count(donor, delta, place)
        if count == delta.numel():
            return whole(delta)
        kept = kept_largest(delta, count)
        return scaled(kept, rescaling_factor(delta, kept, donor.density, self.rescale))
