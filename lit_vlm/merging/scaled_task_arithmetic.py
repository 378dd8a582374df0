"""Task arithmetic whose coefficients are turned while the plan of the merge stays: what a search over them runs."""

from dataclasses import dataclass, replace

from torch import Tensor

from lit_vlm.functional.weight_coefficients import CoefficientRule, coefficient_of
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.task_arithmetic import TaskArithmetic


@dataclass(frozen=True, kw_only=True)
class ScaledTaskArithmetic(TaskArithmetic):
    """Multiplies the coefficients of all donors by one factor for each weight, then adds as task arithmetic does.

    Where the factor is 0 the target's weight comes back bit for bit.

    Source:
        Reasoning Vectors: Transferring Chain-of-Thought Capabilities via Task Arithmetic (from-paper-text):
        ``target + alpha (mask * v)``, with ``alpha`` as the factor and the mask in the donors' own coefficients.
    """

    factors: tuple[CoefficientRule, ...]
    """The first rule that finds a weight holds; what none finds has 0."""

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight."""
        factor = coefficient_of(list(self.factors), tensors.place)
        donors = [replace(donor, weight=factor * donor.weight) for donor in tensors.donors]
        return super().__call__(replace(tensors, donors=donors))
