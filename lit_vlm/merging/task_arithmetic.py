"""Task arithmetic: differences of checkpoints, added and subtracted."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_vlm.functional.task_vectors import Pieces, whole
from lit_vlm.interfaces.weights import DonorTensor, WeightPlace
from lit_vlm.merging.delta_merge import DeltaMerge


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(DeltaMerge):
    """Adds the donors' differences to the target: ``target + scale * sum_i w_i (donor_i - base_i)``.

    A negative weight subtracts what the donor learnt. Reasoning vectors and instruction residuals are this, with a
    target that is not the base. The donors' densities are not read.

    Source:
        Ilharco et al., Editing Models with Task Arithmetic (2023), section 2; mergekit ``task_arithmetic``
        (confirmed-in-code), which has no target beside the base.
    """

    prunes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def pruned(self, donor: DonorTensor, delta: Tensor, place: WeightPlace) -> Pieces:
        """Gives the difference as it is."""
        return whole(delta)
