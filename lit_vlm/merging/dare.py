"""DARE: drop most numbers of a difference at random, and rescale the rest."""

from dataclasses import dataclass

from torch import Tensor

from lit_vlm.functional.random_masks import kept_at_random
from lit_vlm.functional.task_vectors import Pieces, Rescaling, rescaling_factor, scaled, whole
from lit_vlm.interfaces.weights import DonorTensor, WeightPlace
from lit_vlm.merging.delta_merge import DeltaMerge, checked_density


@dataclass(frozen=True, kw_only=True)
class DARE(DeltaMerge):
    """Keeps each number of a difference with the donor's density as probability, and divides it by that.

    With ``sign_election: false`` it is mergekit's ``dare_linear``, with ``true`` its ``dare_ties``. What stays depends
    on the run's seed, the weight's name and the donor's place alone.

    Source:
        Yu et al., Language Models are Super Mario (2024), section 3.1; mergekit ``dare_linear`` and ``dare_ties``
        (confirmed-in-code), which rescale by ``l1``: for small weights their numbers differ from the paper's.
    """

    rescale: Rescaling = "inverse_density"
    """What the numbers that are kept are multiplied by: ``inverse_density``, as published, ``l1``, which brings the sum
    of absolute values back to what it was, as mergekit does, or ``none``."""

    def pruned(self, donor: DonorTensor, delta: Tensor, place: WeightPlace) -> Pieces:
        """Gives the difference with numbers set to 0 at random and the rest rescaled."""
        density = checked_density(donor, place)
        if density >= 1:
            return whole(delta)
        kept = kept_at_random(delta, density, donor.seed)
        return scaled(kept, rescaling_factor(delta, kept, density, self.rescale))
