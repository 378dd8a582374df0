"""One donor's weights, as they are or scaled."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_vlm.functional.task_vectors import weighted_sum, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors


@dataclass(frozen=True, kw_only=True)
class Passthrough(Merge):
    """Puts the donor's weight, times its coefficient, in the place of the target's; where that is 0 the target's stays.

    With rules such as ``{filter: "layers:12-27", value: 1}`` it swaps layers of two models.

    Source:
        mergekit ``passthrough`` (confirmed-in-code), whose ``scale`` is the donor's weight here. Stacks of more layers
        than the target has are not offered.
    """

    needs_values: ClassVar[bool] = True
    needs_deltas: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    donor_counts: ClassVar[tuple[int, int | None]] = (1, 1)

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the weight.

        Raises:
            UserError: There is not just one donor with weights of its own.
        """
        if len(tensors.donors) != 1 or len(tensors.values) != 1:
            raise UserError(f"Passthrough copies from exactly one model; {tensors.place.name} has no or more donors")
        weight = tensors.donors[0].weight
        source, factor = (tensors.values[0], weight) if weight else (tensors.target, 1.0)
        return weighted_sum([(whole(source), factor)], like=tensors.target)
