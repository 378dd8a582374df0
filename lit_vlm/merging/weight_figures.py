"""What a merge did to one weight, in figures, counted piece by piece while the numbers are at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import torch
from torch import Tensor

from lit_vlm.functional.task_vectors import piece_product
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import MergeTensors


@dataclass(frozen=True)
class WeightFigures:
    """What was done with one weight."""

    name: str
    """On disk."""
    merged: bool
    """Whether it was computed; otherwise it is the target's own."""
    reason: str
    """Why it was kept; empty for a merged one."""
    donors: tuple[int, ...] = ()
    """Which donors went in, counted from 0; the other figures follow them."""
    coefficients: tuple[float, ...] = ()
    change: float | None = None
    """``‖merged − target‖ / ‖target‖``; None where the target is all zero."""
    deltas: tuple[float | None, ...] = ()
    """``‖delta‖ / ‖target‖`` of each donor, as the delta came, before it was scaled or pruned; ``‖delta‖`` itself
    where the target is all zero, None without a base."""
    cosines: tuple[float | None, ...] = ()
    """Cosine between the deltas of first and second, first and third, …, second and third, …; None where one is all
    zero or there is no base."""


class FigureTally:
    """Adds up the figures of one weight over its pieces.

    Sums of a piece are float32, sums over pieces float64.
    """

    def __init__(self) -> None:
        self._target = 0.0
        self._change = 0.0
        self._products: dict[tuple[int, int], float] = {}
        self._coefficients: tuple[float, ...] = ()

    def add(self, piece: MergeTensors, merged: Tensor) -> None:
        """Takes in one piece and what became of it, float32."""
        target = piece.target.flatten()
        change = torch.sub(merged.flatten(), target)
        self._target += piece_product(target, target)
        self._change += piece_product(change, change)
        deltas = {index: donor.delta.flatten() for index, donor in enumerate(piece.donors) if donor.delta is not None}
        for pair in combinations_with_replacement(deltas, 2):
            self._products[pair] = self._products.get(pair, 0.0) + piece_product(deltas[pair[0]], deltas[pair[1]])
        self._coefficients = tuple(donor.weight for donor in piece.donors)

    def join(self, other: FigureTally) -> None:
        """Takes in what another tally has counted of the same weight."""
        self._target += other._target
        self._change += other._change
        for pair, product in other._products.items():
            self._products[pair] = self._products.get(pair, 0.0) + product
        self._coefficients = other._coefficients

    @property
    def is_finite(self) -> bool:
        """Whether target, differences and result hold neither NaN nor infinity."""
        return all(map(math.isfinite, (self._target, self._change, *self._products.values())))

    def figures(self, name: str, donors: Sequence[int]) -> WeightFigures:
        """Returns the figures of the weight.

        Args:
            name: On disk.
            donors: Which donors its pieces had.
        """
        size = math.sqrt(self._target)
        places = range(len(donors))
        norms = [self._norm(place) for place in places]
        return WeightFigures(
            name=name,
            merged=True,
            reason="",
            donors=tuple(donors),
            coefficients=self._coefficients,
            change=math.sqrt(self._change) / size if size else None,
            deltas=tuple(norm if norm is None or not size else norm / size for norm in norms),
            cosines=tuple(self._cosine(pair) for pair in combinations(places, 2)),
        )

    def _norm(self, place: int) -> float | None:
        return math.sqrt(self._products[place, place]) if (place, place) in self._products else None

    def _cosine(self, pair: tuple[int, int]) -> float | None:
        norms = (self._norm(pair[0]) or 0.0) * (self._norm(pair[1]) or 0.0)
        return max(-1.0, min(1.0, self._products[pair] / norms)) if norms else None


def refuse_not_finite(tensors: MergeTensors, merged: Tensor, labels: Sequence[str]) -> None:
    """Finds what is NaN or infinite in a weight.

    Args:
        tensors: The whole weight.
        merged: What became of it, in the type it is written in.
        labels: What messages call the donors, in their order.

    Raises:
        UserError: Something is; the message names the weight and whose it is.
    """
    name = tensors.place.name
    parts: list[tuple[str, Tensor | None]] = [("the target", tensors.target)]
    for label, donor in zip(labels, tensors.donors, strict=True):
        parts += [(label, donor.value), (f"the difference of {label} to its base", donor.delta)]
    for owner, tensor in parts:
        if tensor is not None and not tensor.isfinite().all():
            raise UserError(f"weight {name}: {owner} holds NaN or infinity; the checkpoint is damaged, fetch it again")
    if not merged.isfinite().all():
        raise UserError(
            f"weight {name}: the merged weight holds NaN or infinity as {str(merged.dtype).removeprefix('torch.')}; "
            "give smaller coefficients, or dtype float32"
        )
