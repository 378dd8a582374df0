"""The weighted mean of checkpoints."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_vlm.functional.task_vectors import weighted_sum, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors

_NO_WEIGHT = 1e-8


@dataclass(frozen=True, kw_only=True)
class Linear(Merge):
    """Averages the donors' weights: ``sum_i w_i donor_i``, divided by ``sum_i w_i``; no base is needed.

    Source:
        Wortsman et al., Model Soups (2022), section 2; mergekit ``linear`` (confirmed-in-code), which divides by a sum
        of weights of 0.
    """

    needs_values: ClassVar[bool] = True
    needs_deltas: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    normalize: bool = True
    """Whether to divide by the sum of the weights."""

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: The weights add up to 0, or there is no donor.
        """
        present = [(donor.value, donor.weight) for donor in tensors.donors if donor.value is not None]
        total = sum(weight for _, weight in present) if self.normalize else 1.0
        if abs(total) < _NO_WEIGHT or not present:
            weights = [weight for _, weight in present]
            raise UserError(f"the donors' weights {weights} for {tensors.place.name} add up to 0, so there is no mean")
        return weighted_sum([(whole(value), weight / total) for value, weight in present], like=tensors.target)
