"""Writes what a merge adds to its target as a saved vector, to be added elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_vlm.functional.shard_writer import TensorSpec
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.merge_output import hashed_sources
from lit_vlm.merging.merge_plan import MergePlan
from lit_vlm.merging.merge_run import merged_weights, refuse_zero_deltas
from lit_vlm.merging.saved_vector import VectorDescription, write_vector
from lit_vlm.merging.weight_figures import WeightFigures


@dataclass(frozen=True)
class VectorSummary:
    """What was written."""

    output: Path
    weights: int
    seconds: float

    @property
    def outcome(self) -> str:
        """What the vector holds."""
        return f"the differences of {self.weights} weights to the target"


def write_merged_vector(
    plan: MergePlan, output: Path, recipe: str, advance: Callable[[WeightFigures], None] | None = None
) -> VectorSummary:
    """Writes ``merged - target`` of every merged weight, float32 or in the merge's ``dtype``.

    Args:
        plan: What is merged how.
        output: The folder; absent or empty.
        recipe: The resolved configuration, YAML, which is kept with the vector.
        advance: Called with every merged weight.

    Raises:
        UserError: The folder holds something, nothing is merged, or a donor adds nothing.
    """
    if not plan.new_rows.keys() <= plan.shares.keys():
        raise UserError("new_tokens changes rows of weights that are not merged, whose differences are not saved")
    begin = time.perf_counter()
    dtype = torch.float32 if plan.settings.dtype is None else getattr(torch, plan.settings.dtype)
    specs = [TensorSpec(planned.place.name, dtype, planned.shape) for planned in plan.outputs if planned.merged]
    if not specs:
        raise UserError("nothing is merged, so that there is no difference to save; give a donor a coefficient")
    stream = merged_weights(plan, only={spec.name for spec in specs}, differences=True)
    figures: list[WeightFigures] = []

    def difference(name: str) -> Tensor:
        weight = next(stream)
        if weight.figures.name != name or weight.difference is None:
            raise RuntimeError(f"due is {name}, computed is {weight.figures.name}")
        figures.append(weight.figures)
        if advance is not None:
            advance(weight.figures)
        if len(figures) == len(specs):
            refuse_zero_deltas(figures, plan.donor_labels)
        return weight.difference

    with hashed_sources(plan) as sources:
        hashed = sources()
        description = VectorDescription(
            plus=f"{type(plan.settings.operation).__name__} of {', '.join(plan.donor_labels)}",
            minus=plan.target.label,
            layers=plan.outputs[0].place.layers,
            digests={"minus": next(source.digests for source in hashed if source.role == "target")},
            further={"recipe": recipe, "sources": {source.role: dict(source.digests) for source in hashed}},
        )
        write_vector(output, specs, difference, description, plan.settings.largest_shard)
    return VectorSummary(output, len(specs), time.perf_counter() - begin)
