"""DELLA: drop numbers of a difference at random, small ones more often."""

from dataclasses import dataclass

from torch import Tensor

from lit_vlm.functional.random_masks import kept_by_rank
from lit_vlm.functional.task_vectors import Pieces, Rescaling, rescaling_factor, scaled, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import DonorTensor, WeightPlace
from lit_vlm.merging.delta_merge import DeltaMerge, checked_density


@dataclass(frozen=True, kw_only=True)
class DELLA(DeltaMerge):
    """Keeps each number of a difference with a probability that rises with its rank by magnitude in its row.

    The probability goes from ``density - epsilon`` to ``density + epsilon``. As it stands it is mergekit's ``della``;
    with ``sign_election: false`` and ``normalize: false`` its ``della_linear``.

    Source:
        Deep et al., DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling (2024),
        section 3; mergekit (confirmed-in-code), which rescales by ``l1``, ranks weights of three and more dimensions
        along the second alone and leaves rows of one number undefined.
    """

    normalize: bool = True
    sign_election: bool = True
    epsilon: float = 0.15
    """Half the distance between the least and the largest probability; ``density`` plus or minus it must lie between 0
    and 1."""
    rescale: Rescaling = "inverse_density"
    """What the numbers that are kept are multiplied by: ``inverse_density``, as published, one over each number's own
    probability, ``l1``, which brings the sum of absolute values back to what it was, as mergekit does, or ``none``."""

    def __post_init__(self) -> None:
        """Refuses a width that is none."""
        super().__post_init__()
        if not 0 <= self.epsilon < 0.5:
            raise UserError(f"epsilon is {self.epsilon}; it must be in [0, 0.5)")

    def pruned(self, donor: DonorTensor, delta: Tensor, place: WeightPlace) -> Pieces:
        """Gives the difference with numbers set to 0 at random and the rest rescaled."""
        density = checked_density(donor, place)
        if density >= 1:
            return whole(delta)
        if density - self.epsilon <= 0 or density + self.epsilon >= 1:
            raise UserError(
                f"density {density} with epsilon {self.epsilon} gives probabilities that are none for {place.name}; "
                "lower epsilon until density plus or minus it lies between 0 and 1"
            )
        inverse = self.rescale == "inverse_density"
        kept = whole(kept_by_rank(delta, density, self.epsilon, donor.seed, inverse_probability=inverse))
        return kept if inverse else scaled(kept, rescaling_factor(delta, kept, density, self.rescale))
