"""Computes the merged weights one after the other; no more than two are held at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lit_vlm.functional.piece_threads import PieceThreads
from lit_vlm.functional.recycled_memory import RecycledMemory
from lit_vlm.functional.task_vectors import PIECE, Pieces, inner_products
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.merge_plan import MergePlan
from lit_vlm.merging.mixed_donors import summands
from lit_vlm.merging.new_tokens import put_new_rows
from lit_vlm.merging.read_ahead import read_ahead
from lit_vlm.merging.stored_weight import StoredWeight
from lit_vlm.merging.weight_figures import FigureTally, WeightFigures, refuse_not_finite
from lit_vlm.merging.weight_planner import PlannedWeight

DEVICE_PIECE = 1 << 25
"""Numbers that are merged at a time on a device, where starting a computation costs more than fetching numbers."""


@dataclass(frozen=True)
class MergedWeight:
    """One weight of the merged model."""

    planned: PlannedWeight
    tensor: Tensor
    """On the CPU, in the type of the output."""
    figures: WeightFigures
    difference: Tensor | None = None
    """What a merged weight differs from the target in, float32, where that was asked for."""


def merged_weights(
    plan: MergePlan,
    operation: Merge | None = None,
    *,
    only: Collection[str] | None = None,
    differences: bool = False,
) -> Iterator[MergedWeight]:
    """Computes the weights in the plan's order; the next is read while one is merged.

    Args:
        plan: What is merged how.
        operation: The fitted operation; by default the plan's is fitted first.
        only: Names on disk of those that are wanted; by default all, and then donors without any difference are
            refused at the end.
        differences: Whether to give what a merged weight differs from the target in, before the output's type rounds
            it; ``tensor`` is then empty.

    Raises:
        UserError: A weight holds NaN or infinity, or a donor is the same as its base in all weights.
    """
    fitted = fitted_operation(plan) if operation is None else operation
    wanted = (planned for planned in plan.outputs if only is None or planned.place.name in only)
    figures: list[WeightFigures] = []
    with opened(plan), PieceThreads() as threads:
        merge = _Merger(plan, fitted, differences, RecycledMemory(), threads)
        for planned, content in read_ahead((planned, _found(plan, planned)) for planned in wanted):
            merged = merge(planned, content)
            del content
            figures.append(merged.figures)
            yield merged
            del merged
    if only is None:
        refuse_zero_deltas(figures, plan.donor_labels)


def fitted_operation(plan: MergePlan) -> Merge:
    """Returns the plan's operation with what it must know of all weights; reads them only where it asks for them."""
    device = torch.device(plan.settings.device)
    tensors = (_on_device(plan.tensors(planned), device) for planned in plan.outputs if planned.merged)
    with opened(plan):
        return plan.settings.operation.fitted(read_ahead(tensors))


def refuse_zero_deltas(figures: Iterable[WeightFigures], labels: Sequence[str]) -> None:
    """Refuses a donor that is the same as its base in every weight that was merged.

    Raises:
        UserError: There is one; the message names it.
    """
    sizes: dict[int, float] = {}
    for weight in figures:
        for donor, size in zip(weight.donors, weight.deltas, strict=True):
            if size is not None:
                sizes[donor] = max(sizes.get(donor, 0.0), size)
    same = [labels[donor] for donor, size in sorted(sizes.items()) if size == 0]
    if same:
        raise UserError(
            f"{' and '.join(same)}: all differences to the base are zero, so that nothing is added; check that donor "
            "and base are not the same checkpoint"
        )


def bytes_read(plan: MergePlan, planned: PlannedWeight) -> int:
    """Counts the bytes on disk that one weight is computed from."""
    stored = {(id(plan.target), planned.origin): (plan.target, planned.origin)}
    for share in plan.shares.get(planned.place.name, ()):
        for model, name in ((share.donor.model, share.name), (share.donor.base, share.base)):
            if model is not None and name is not None:
                stored[id(model.source), name] = (model.source, name)
    return sum(math.prod(source.shape(name)) * source.dtype(name).itemsize for source, name in stored.values())


def opened(plan: MergePlan) -> ExitStack:
    """Keeps the files of all sources open."""
    stack = ExitStack()
    for source in {id(source): source for source in plan.sources.values()}.values():
        stack.enter_context(source.opened())
    return stack


def _found(plan: MergePlan, planned: PlannedWeight) -> StoredWeight | MergeTensors | Pieces:
    return plan.stored(planned) if planned.merged else plan.kept(planned)


@dataclass(frozen=True)
class _Merger:
    """Merges weights piece by piece, several at a time."""

    plan: MergePlan
    operation: Merge
    differences: bool
    memory: RecycledMemory
    threads: PieceThreads

    def __call__(self, planned: PlannedWeight, content: StoredWeight | MergeTensors | Pieces) -> MergedWeight:
        name = planned.place.name
        if not isinstance(content, (StoredWeight, MergeTensors)):
            figures = WeightFigures(name, merged=False, reason=planned.reason)
            copied = self._copied(planned, content)
            put_new_rows(self.plan.new_rows.get(name, ()), copied)
            return MergedWeight(planned, copied, figures)
        device = torch.device(self.plan.settings.device)
        result = self.memory.empty(planned.shape, torch.float32 if self.differences else planned.dtype)
        tally = self._merge(planned, content, result.view(-1), device)
        # What overflows a narrower type shows in the result alone.
        if not tally.is_finite or (planned.dtype == torch.float16 and not result.isfinite().all()):
            labels = [self.plan.donor_labels[donor] for donor in planned.donors]
            refuse_not_finite(self._single(content), result, labels)
        figures = tally.figures(name, planned.donors)
        if isinstance(content, MergeTensors):
            result = self.plan.keep_rows(planned, result, content.target)
        put_new_rows(self.plan.new_rows.get(name, ()), result)
        if self.differences:
            target = content.target if isinstance(content, MergeTensors) else content.target(0, result.numel())
            return MergedWeight(planned, torch.empty(0), figures, result.sub_(target.view_as(result)))
        return MergedWeight(planned, result, figures)

    def _copied(self, planned: PlannedWeight, content: Pieces) -> Tensor:
        result = self.memory.empty(planned.shape, planned.dtype)
        flat = result.view(-1)

        def copy(start: int, stop: int) -> None:
            flat[start:stop] = content(start, stop)

        for _ in self.threads.over(flat.numel(), copy):
            pass
        return result

    def _merge(
        self, planned: PlannedWeight, content: StoredWeight | MergeTensors, into: Tensor, device: torch.device
    ) -> FigureTally:
        """Writes the merged weight and counts figures; holds no weight whole where the operation allows that."""
        step = PIECE if device.type == "cpu" else DEVICE_PIECE
        operation, source, whole = self.operation, content, None
        if (of := operation.products_of) is not None:
            products = self._products(content, of, into.numel(), device, step)
            operation = operation.given_products(_piece(content, 0, 0), products)
        elif not operation.elementwise:
            source = self._single(content)
            whole = operation(_on_device(source, device)).reshape(-1)

        def merge(start: int, stop: int) -> FigureTally:
            piece = _on_device(_piece(source, start, stop), device)
            part = operation(piece).reshape(-1) if whole is None else whole[start:stop]
            found = FigureTally()
            found.add(piece, part)
            into[start:stop] = part
            return found

        tally = FigureTally()
        for found in self.threads.over(into.numel(), merge, step=step):
            tally.join(found)
        return tally

    def _products(
        self,
        content: StoredWeight | MergeTensors,
        of: Literal["values", "deltas"],
        count: int,
        device: torch.device,
        step: int,
    ) -> Tensor:
        """Computes the inner products of the donors' weights or differences, piece by piece."""

        def products(start: int, stop: int) -> Tensor:
            piece = _on_device(_piece(content, start, stop), device)
            return inner_products([tensor.reshape(-1) for tensor in summands(piece, of)])

        found = list(self.threads.over(count, products, step=step))
        return torch.stack(found).sum(0) if found else products(0, 0)

    def _single(self, content: StoredWeight | MergeTensors) -> MergeTensors:
        return content.whole(self.memory, self.threads) if isinstance(content, StoredWeight) else content


def _piece(source: StoredWeight | MergeTensors, start: int, stop: int) -> MergeTensors:
    """Returns a stretch of the flattened weight."""
    if isinstance(source, StoredWeight):
        return source.piece(start, stop)
    return _changed(source, lambda tensor: tensor.reshape(-1)[start:stop])


def _on_device(tensors: MergeTensors, device: torch.device) -> MergeTensors:
    return tensors if device.type == "cpu" else _changed(tensors, lambda tensor: tensor.to(device))


def _changed(tensors: MergeTensors, change: Callable[[Tensor], Tensor]) -> MergeTensors:
    donors = [
        replace(
            donor,
            value=None if donor.value is None else change(donor.value),
            delta=None if donor.delta is None else change(donor.delta),
        )
        for donor in tensors.donors
    ]
    return MergeTensors(tensors.place, change(tensors.target), donors)
