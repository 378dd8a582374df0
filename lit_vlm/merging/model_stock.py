"""Model stock: a point between the base and the mean of fine-tuned models, found from the angles between them."""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from lit_vlm.functional.task_vectors import inner_product, weighted_sum, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.donor_checks import without_weights

_SINGULAR = 1e-6


@dataclass(frozen=True, kw_only=True)
class ModelStock(Merge):
    """Adds ``t`` times the mean difference to the target, ``t = N c / (1 + (N - 1) c)``.

    ``c`` is the mean cosine between the ``N`` donors' differences, pair by pair; where it has no solution (``N`` donors
    that cancel out) or a difference is 0 throughout, ``c`` and with it ``t`` counts as 0. A donor's weight only says
    whether it takes part.

    Source:
        Jang et al., Model Stock: All We Need Is Just a Few Fine-Tuned Models (2024), section 4; mergekit
        ``model_stock`` (confirmed-in-code), which takes norms whose product is below 1e-6 for that, so that small
        differences seem at right angles; here only norms of 0 do.
    """

    donor_counts: ClassVar[tuple[int, int | None]] = (2, None)

    per_row: bool = False
    """Whether each vector along the last dimension has a ``t`` of its own; mergekit's ``filter_wise``."""

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: Fewer than two donors take part, or they have weights.
        """
        deltas = [donor.delta for donor in without_weights(tensors, "ModelStock") if donor.delta is not None]
        count = len(deltas)
        if count < 2:
            raise UserError(f"ModelStock needs two donors or more; {tensors.place.name} has {count}")
        share = self.share(deltas)
        if not self.per_row:
            terms = [(whole(delta), share.item() / count) for delta in deltas]
            return weighted_sum([(whole(tensors.target), 1.0), *terms], like=tensors.target)
        mean = weighted_sum([(whole(delta), 1 / count) for delta in deltas], like=tensors.target)
        by_row = (*mean.shape[:-1], 1) if mean.ndim else ()
        return mean.mul_(share.to(mean).view(by_row)).add_(tensors.target)

    def share(self, deltas: list[Tensor]) -> Tensor:
        """Computes ``t``, a scalar or one for each row, in float64 where the device has it."""
        norms = [inner_product(delta, delta, per_row=self.per_row).sqrt() for delta in deltas]
        cosines = []
        for (first, norm), (second, other) in combinations(zip(deltas, norms, strict=True), 2):
            product = norm * other
            cosine = inner_product(first, second, per_row=self.per_row) / torch.where(product > 0, product, 1.0)
            cosines.append(cosine.clamp(-1, 1))
        mean, count = torch.stack(cosines).mean(0), len(deltas)
        denominator = 1 + (count - 1) * mean
        singular = denominator.abs() < _SINGULAR
        return torch.where(singular, 0.0, count * mean / torch.where(singular, 1.0, denominator))
