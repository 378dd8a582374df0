"""Model stock: a point between the base and the mean of fine-tuned models, found from the angles between them."""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_vlm.functional.task_vectors import inner_product, inner_products, weighted_sum, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import DonorTensor, MergeTensors
from lit_vlm.merging.donor_checks import without_weights
from lit_vlm.merging.mixed_donors import MixedDonors

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

    @property
    def products_of(self) -> Literal["deltas"] | None:
        """The differences, where they have one ``t``."""
        return None if self.per_row else "deltas"

    def given_products(self, tensors: MergeTensors, products: Tensor) -> Merge:
        """Returns what adds the mean difference times ``t`` to the target.

        Raises:
            UserError: Fewer than two donors take part, or they have weights.
        """
        taking_part = {id(donor) for donor in self._taking_part(tensors)}
        places = [place for place, donor in enumerate(tensors.donors) if id(donor) in taking_part]
        share = self.share(products[places][:, places]).item() / len(places)
        shares = tuple(share if place in places else 0.0 for place in range(len(tensors.donors)))
        return MixedDonors(of="deltas", shares=shares)

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: Fewer than two donors take part, or they have weights.
        """
        deltas = [donor.delta for donor in self._taking_part(tensors) if donor.delta is not None]
        if not self.per_row:
            return self.given_products(tensors, inner_products(tensors.deltas))(tensors)
        pairs = [[inner_product(first, second, per_row=True) for second in deltas] for first in deltas]
        share = self.share(torch.stack([torch.stack(row) for row in pairs]))
        mean = weighted_sum([(whole(delta), 1 / len(deltas)) for delta in deltas], like=tensors.target)
        by_row = (*mean.shape[:-1], 1) if mean.ndim else ()
        return mean.mul_(share.to(mean).view(by_row)).add_(tensors.target)

    @staticmethod
    def share(products: Tensor) -> Tensor:
        """Computes ``t`` from the differences' inner products, shape ``(N, N)`` or ``(N, N, rows)``."""
        count = len(products)
        cosines = []
        for first, second in combinations(range(count), 2):
            norms = products[first, first].sqrt() * products[second, second].sqrt()
            cosines.append((products[first, second] / torch.where(norms > 0, norms, 1.0)).clamp(-1, 1))
        mean = torch.stack(cosines).mean(0)
        denominator = 1 + (count - 1) * mean
        singular = denominator.abs() < _SINGULAR
        return torch.where(singular, 0.0, count * mean / torch.where(singular, 1.0, denominator))

    @staticmethod
    def _taking_part(tensors: MergeTensors) -> list[DonorTensor]:
        taking_part = without_weights(tensors, "ModelStock")
        if len(taking_part) < 2:
            raise UserError(f"ModelStock needs two donors or more; {tensors.place.name} has {len(taking_part)}")
        return taking_part
