"""Adapters of low rank out of two checkpoints, by ``mergekit-extract-lora`` and by ``lit-vlm merge --as_lora``.

Factors are unique only up to an invertible matrix between them, so that their products are compared, scaled as PEFT
scales them. Both find them from singular values. What else they do is not the same: mergekit takes the difference
in the type of the files and writes the factors in it (ours: float32), writes fewer rows where a weight has fewer than
the rank (ours: rows of zeros), and saves embedding, head and norms whole and differences of biases beside the adapter
(ours names them as left out, and what it writes is an adapter alone). Its products are so no closer than its type is
exact.
"""

import contextlib
import io
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_sides import Merger
from safetensors.torch import load_file
from torch import Tensor

from lit_vlm.command_line import merge

TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2}
"""Relative, of a product; in bfloat16 mergekit rounds the difference, whose singular vectors lie close in noise."""
START = "base_model.model."


@dataclass
class AdapterGap:
    """How far two adapters lie apart."""

    largest: float = 0.0
    """Of ``‖ours - theirs‖ / ‖theirs‖`` over the products of all modules, Frobenius."""
    modules: int = 0
    beside: int = 0
    """Tensors that mergekit writes besides: saved whole, and differences of biases."""
    ours: float = 0.0
    """Relative error of all products together against the difference of the checkpoints."""
    theirs: float = 0.0

    @property
    def line(self) -> str:
        """Cells of a table."""
        return f"{self.modules} | {self.largest:.1e} | {self.ours:.6f} | {self.theirs:.6f} | {self.beside}"


def adapter_gap(folder: Path, merger: Merger, base: Path, tuned: Path, rank: int) -> AdapterGap:
    """Extracts by both, and compares."""
    outputs = {side: folder / f"{side}-adapter" for side in ("ours", "theirs")}
    for output in outputs.values():
        shutil.rmtree(output, ignore_errors=True)
    words = {"--model": tuned, "--base-model": base, "--out-path": outputs["theirs"], "--max-rank": rank}
    merger.ask({"extract": [str(word) for pair in words.items() for word in pair]})
    settings = {"operation": "TaskArithmetic", "base": str(base), "donors": [{"model": str(tuned)}]}
    recipe = folder / "adapter.yaml"
    recipe.write_text(json.dumps({"merge": settings}))
    with contextlib.redirect_stdout(io.StringIO()):
        merge.run("merge", ["--config", str(recipe), "--output", str(outputs["ours"]), "--as_lora", str(rank)])
    own, (other, beside) = products(outputs["ours"])[0], products(outputs["theirs"])
    if own.keys() != other.keys():
        raise SystemExit(f"other modules are adapted: {sorted(own.keys() ^ other.keys())[:5]}")
    first, second = weights(base), weights(tuned)
    found, sums = AdapterGap(modules=len(own), beside=beside), [0.0, 0.0, 0.0]
    for name, product in own.items():
        gap = float((product - other[name]).norm() / other[name].norm())
        # A NaN must not pass.
        found.largest = gap if not gap <= found.largest else found.largest
        difference = second[f"{name}.weight"].double() - first[f"{name}.weight"].double()
        for place, left in enumerate((product - difference, other[name] - difference, difference)):
            sums[place] += float(left.square().sum())
    found.ours, found.theirs = (math.sqrt(lost / sums[2]) for lost in sums[:2])
    return found


def products(folder: Path) -> tuple[dict[str, Tensor], int]:
    """Multiplies an adapter's factors, module by module; returns how many other tensors lie in the file too."""
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    ranks, alphas = settings.get("rank_pattern", {}), settings.get("alpha_pattern", {})
    held = load_file(folder / "adapter_model.safetensors")
    factors = {name.removeprefix(START): value for name, value in held.items()}
    names = [name.removesuffix(".lora_A.weight") for name in factors if name.endswith(".lora_A.weight")]
    found = {}
    for name in names:
        scale = alphas.get(name, settings["lora_alpha"]) / ranks.get(name, settings["r"])
        outer, inner = (factors[f"{name}.lora_{side}.weight"].double() for side in "BA")
        found[name] = scale * outer @ inner
    return found, len(factors) - 2 * len(names)


def weights(folder: Path) -> dict[str, Tensor]:
    """Reads a text model, whose names in memory are those on disk."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}
