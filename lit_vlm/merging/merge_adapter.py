"""Writes what a merge adds to its target as an adapter of low rank, in PEFT's format."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_vlm.functional.shard_writer import check_output
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.low_rank import low_rank_pair
from lit_vlm.merging.merge_output import CARD, hashed_sources
from lit_vlm.merging.merge_plan import MergePlan
from lit_vlm.merging.merge_report import write_report
from lit_vlm.merging.merge_run import merged_weights, refuse_zero_deltas
from lit_vlm.merging.model_card import model_card
from lit_vlm.merging.weight_figures import WeightFigures

CONFIGURATION, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdaptedWeight:
    """How well an adapter stands for what a merge adds to one weight."""

    name: str
    """On disk."""
    relative_error: float
    """``‖delta − B A‖ / ‖delta‖``, Frobenius."""
    size: float
    """``‖delta‖``."""


@dataclass(frozen=True)
class AdapterSummary:
    """What an extraction has written."""

    output: Path
    rank: int
    adapted: tuple[AdaptedWeight, ...]
    left_out: Mapping[str, float]
    """Merged weights that the adapter has no place for, with ``‖delta‖`` of each."""
    seconds: float

    @property
    def relative_error(self) -> float:
        """Of all weights together, those left out too."""
        lost = sum((weight.relative_error * weight.size) ** 2 for weight in self.adapted)
        lost += sum(size**2 for size in self.left_out.values())
        whole = sum(weight.size**2 for weight in self.adapted) + sum(size**2 for size in self.left_out.values())
        return math.sqrt(lost / whole) if whole else 0.0

    @property
    def outcome(self) -> str:
        """What the adapter stands for and what not."""
        told = f"an adapter of rank {self.rank} on {len(self.adapted)} linear layers"
        if self.left_out:
            told += f", {len(self.left_out)} other merged weights left out"
        return f"{told}; relative error of the whole difference {self.relative_error:.3g}"


def write_adapter(
    plan: MergePlan,
    output: Path,
    rank: int,
    recipe: str,
    linear_names: Mapping[str, str],
    *,
    everywhere: bool = False,
    approximate: bool = False,
    advance: Callable[[WeightFigures], None] | None = None,
) -> AdapterSummary:
    """Writes an adapter for the target; the folder appears complete or not at all.

    Args:
        plan: What is merged how.
        output: The folder; absent or empty.
        rank: Of every linear layer's factors.
        recipe: The resolved configuration, YAML, for the model card.
        linear_names: Weights of linear layers that may be adapted: name on disk -> name in memory.
        everywhere: Whether linear layers outside the decoder's layers are adapted too.
        approximate: Whether singular values may come from the faster randomised method.
        advance: Called with every merged weight.

    Raises:
        UserError: The folder holds something, the rank is below 1, or no linear layer is merged.
    """
    check_output(output)
    if plan.new_rows:
        raise UserError("an adapter of linear layers holds no rows of new_tokens; write the merged model instead")
    begin = time.perf_counter()
    merged = {planned.place.name for planned in plan.outputs if planned.merged}
    factors: dict[str, Tensor] = {}
    modules: list[str] = []
    adapted: list[AdaptedWeight] = []
    left_out: dict[str, float] = {}
    figures: list[WeightFigures] = []
    with hashed_sources(plan) as sources:
        for weight in merged_weights(plan, only=merged, differences=True):
            name, difference = weight.planned.place.name, weight.difference
            if difference is None:
                continue
            size = float(torch.linalg.vector_norm(difference))
            if name in linear_names and (everywhere or weight.planned.place.layer is not None):
                pair = low_rank_pair(difference, rank, approximate)
                modules.append(linear_names[name].removesuffix(".weight"))
                factors[f"{PREFIX}{modules[-1]}.lora_A.weight"] = pair.inner.contiguous()
                factors[f"{PREFIX}{modules[-1]}.lora_B.weight"] = pair.outer.contiguous()
                adapted.append(AdaptedWeight(name, pair.relative_error, size))
            elif size:
                left_out[name] = size
            figures.append(weight.figures)
            if advance is not None:
                advance(weight.figures)
        refuse_zero_deltas(figures, plan.donor_labels)
        if not adapted:
            raise UserError("an adapter stands for linear layers of the decoder, but none of them is merged")
        summary = AdapterSummary(output, rank, tuple(adapted), left_out, time.perf_counter() - begin)
        partial = output.parent / f".{output.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(factors, partial / WEIGHTS, metadata={"format": "pt"})
        _write_configuration(partial, plan.target.label, rank, modules)
        operation = plan.settings.operation
        further = {
            "seconds": round(summary.seconds, 3),
            "rank": rank,
            "relative_error": summary.relative_error,
            "adapted": [asdict(weight) for weight in adapted],
            "left_out": left_out,
        }
        write_report(partial, str(operation), plan.donor_labels, sources(), figures, plan.warnings, further)
        outcome, kind = summary.outcome, type(operation).__name__
        card = model_card(output.name, kind, sources(), recipe, outcome, library="peft", warnings=plan.warnings)
        (partial / CARD).write_text(card, encoding="utf-8")
    partial.rename(output)
    return summary


def _write_configuration(folder: Path, base: str, rank: int, modules: list[str]) -> None:
    content = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,  # so that the factors are not scaled
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(modules),
    }
    (folder / CONFIGURATION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
