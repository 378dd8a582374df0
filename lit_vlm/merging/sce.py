"""SCE: select numbers on which donors differ, calculate donors' weights from their size, erase minority signs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_vlm.functional.magnitude_cut import MagnitudeCut, magnitude_cut
from lit_vlm.functional.task_vectors import Pieces, elected_sign, inner_product, spans, whole
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.donor_checks import without_weights

_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True, kw_only=True)
class SCE(Merge):
    """Adds a mean of the donors' differences to the target, each donor weighing as the mean square of its own.

    Of each weight the ``select`` share of those numbers is kept whose variance over the donors is not 0, largest
    variance first; then a donor's number counts only where its sign is that of the sum over donors. A donor's weight
    only says whether it takes part.

    Source:
        Wan et al., FuseChat: Knowledge Fusion of Chat Models (2024), section 3.3; mergekit ``sce`` (confirmed-in-code),
        where donors weigh alike if their mean squares add up to less than 1e-6; here only if they are 0.
    """

    donor_counts: ClassVar[tuple[int, int | None]] = (2, None)

    select: float = 1.0
    """Share of the numbers that is kept, in (0, 1]; mergekit's ``select_topk``."""

    def __post_init__(self) -> None:
        """Refuses shares that keep nothing."""
        if not 0 < self.select <= 1:
            raise UserError(f"select is {self.select}; it is a share in (0, 1]")

    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight.

        Raises:
            UserError: Fewer than two donors take part, or they have weights.
        """
        deltas = [donor.delta for donor in without_weights(tensors, "SCE") if donor.delta is not None]
        if len(deltas) < 2:
            raise UserError(f"SCE needs two donors or more; {tensors.place.name} has {len(deltas)}")
        kept = self._kept(deltas)
        squares = [_sum_of_squares(piece, tensors.target.numel()) for piece in kept]
        total = sum(squares)
        weights = [square / total if total > 0 else 1 / len(deltas) for square in squares]
        result = torch.empty_like(tensors.target, memory_format=torch.contiguous_format)
        before, after = tensors.target.reshape(-1), result.view(-1)
        for start, stop in spans(after.numel()):
            pieces = [piece(start, stop) for piece in kept]
            torch.add(before[start:stop], _agreeing_mean(pieces, weights), out=after[start:stop])
        return result

    def _kept(self, deltas: Sequence[Tensor]) -> list[Pieces]:
        """Gives the differences with all but the numbers of largest variance set to 0."""
        pieces = [whole(delta) for delta in deltas]
        if self.select == 1:
            return pieces
        variance = torch.empty(deltas[0].numel(), dtype=deltas[0].dtype, device=deltas[0].device)
        for start, stop in spans(variance.numel()):
            variance[start:stop] = _variance([piece(start, stop) for piece in pieces])
        cut = magnitude_cut(variance, int(int(variance.count_nonzero()) * self.select))
        return [_where_kept(piece, variance, cut) for piece in pieces]


def _where_kept(pieces: Pieces, variance: Tensor, cut: MagnitudeCut) -> Pieces:
    return lambda start, stop: pieces(start, stop) * cut.keeps(variance[start:stop], start)


def _variance(deltas: Sequence[Tensor]) -> Tensor:
    """Computes the variance over the donors, number by number; ``torch.var`` over them is many times slower."""
    mean = deltas[0] / len(deltas)
    for delta in deltas[1:]:
        mean.add_(delta, alpha=1 / len(deltas))
    variance = torch.zeros_like(mean)
    for delta in deltas:
        variance.add_((delta - mean).square_(), alpha=1 / len(deltas))
    return variance


def _sum_of_squares(pieces: Pieces, count: int) -> float:
    parts = (pieces(start, stop) for start, stop in spans(count))
    return sum(inner_product(part, part).item() for part in parts)


def _agreeing_mean(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Averages the differences whose sign is that of their sum; 0 where there is none."""
    sign = elected_sign(deltas)
    total = torch.zeros_like(sign)
    divisor = torch.zeros_like(sign)
    for delta, weight in zip(deltas, weights, strict=True):
        towards = delta * sign  # positive where it agrees
        divisor.add_(towards.gt(0), alpha=weight)
        total.add_(towards.relu_(), alpha=weight)
    return total.mul_(sign).div_(divisor.clamp_(min=_LEAST_WEIGHT))
