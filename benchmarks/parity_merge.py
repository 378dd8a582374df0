"""Parity with mergekit: whole checkpoints merged by both, compared number by number, for all that both can do.

The checkpoints are Qwen2 text models of four layers with random weights, in float32 and in bfloat16, tied and untied,
and a Qwen2.5-VL. mergekit runs its own ``run_merge`` from a configuration, in an interpreter that has it; ours is
``lit-vlm merge`` from a recipe. Both compute in float32 (mergekit by ``dtype``, with ``out_dtype`` that of the files).

Where masks are drawn at random (DARE, DELLA) mergekit is given the numbers that ours draws, so that its own code for
probabilities, masks and rescaling runs on them; DELLA in float32 alone, as bfloat16 gives rows many equal magnitudes,
which mergekit ranks as its sort leaves them. SCE's selection in float32 alone too: differences of bfloat16 numbers are
coarse, so that several variances often are exactly the one at the cut; ours takes the first of them, mergekit those
that ``topk`` gives, and as the donors' weights come from what is chosen (in a norm of 64 numbers one choice moves them
by a tenth), all numbers follow. Given the same choice, mergekit's formula and ours differ by 6e-8.

Of equal magnitudes at the cut of TIES and breadcrumbs either may be kept: such numbers are left out of the comparison,
and counted. What float32 gives may differ by 1e-6; what is rounded to bfloat16 at the end by that or by one unit in its
last place, and differences are counted.

A coefficient that is a number holds for embedding and head in mergekit and not in ours, and anchors outside the layers
differ; both are given rules here that say the same.

Adapters of low rank out of two checkpoints are compared as well; see ``parity_merge_adapter.py``.

    python benchmarks/parity_merge.py --mergekit_python MERGEKIT/bin/python
"""

import argparse
import contextlib
import io
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from merge_sides import Merger, add_mergekit_option, mergekit, refuse_without_mergekit
from parity_merge_adapter import TOLERANCE as ADAPTER_TOLERANCE
from parity_merge_adapter import AdapterGap, adapter_gap
from parity_merge_cases import Case, configuration, delta_cases, recipe, value_cases
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic_checkpoint import DTYPES, Sizes, write
from torch import Tensor

from lit_vlm.command_line import merge
from lit_vlm.functional.random_masks import _order_by_magnitude, _random_numbers
from lit_vlm.functional.task_vectors import spans
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.merge_plan import MergePlan, plan_merge
from lit_vlm.models.checkpoint_tensors import open_checkpoint

TOLERANCE = 1e-6
CHANGE = 0.01
"""Deviation of the donors from their base, whose own deviation is 0.02."""
ROUNDING = 1e-6
"""Relative; variances, which SCE cuts by, are rounded otherwise in mergekit."""


def planned_merge(path: Path) -> MergePlan:
    """Plans our merge, for what it reads."""
    return plan_merge(merge.parse_options(["--config", str(path), "--dry_run"]).settings, open_checkpoint)


def write_uniforms(case: Case, plan: MergePlan, output: Path) -> None:
    """Writes the numbers in [0, 1) that our masks are drawn with, weight by weight and donor by donor."""
    found = {}
    for planned in plan.outputs:
        if not planned.merged:
            raise SystemExit(f"{case.ours}: {planned.place.name} is not merged: {planned.reason}")
        for place, donor in enumerate(plan.tensors(planned).donors):
            assert donor.delta is not None
            drawn = positions(donor.delta, donor.seed) if case.kind == "drawn" else ranks(donor.delta, donor.seed)
            found[f"{planned.place.name} {place}"] = drawn.contiguous()
    save_file(found, str(output))


def positions(delta: Tensor, seed: int) -> Tensor:
    """Our numbers for masks whose places do not depend on each other."""
    pieces = [torch.from_numpy(_random_numbers(seed, a, b - a).astype("float64")) for a, b in spans(delta.numel())]
    return torch.cat(pieces).view(delta.shape) / 2**32


def ranks(delta: Tensor, seed: int) -> Tensor:
    """Our numbers for masks that are drawn rank by rank in each row, put where the ranks are."""
    rows = delta.reshape(delta.shape[0], -1) if delta.ndim > 1 else delta.reshape(1, -1)
    if rows.numel() > next(stop for _, stop in spans(2**40)):
        raise SystemExit("DELLA is compared on weights that are drawn in one piece")
    drawn = torch.from_numpy(_random_numbers(seed, 0, rows.numel()).astype("float64")).view(rows.shape)
    found = torch.empty(rows.shape, dtype=torch.float64)
    return found.scatter_(1, _order_by_magnitude(rows), drawn).view(delta.shape) / 2**32


class Checkpoint:
    """Reads weights by name."""

    def __init__(self, folder: Path) -> None:
        self._places = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._places |= dict.fromkeys(file.keys(), path)

    @property
    def names(self) -> set[str]:
        return set(self._places)

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._places[name], framework="pt") as file:
            return file.get_tensor(name)


def equal_at_cut(case: Case, tensors: MergeTensors) -> Tensor:
    """Marks numbers of a magnitude that the cut parts: as many are kept as are wanted, but which is not determined."""
    marked = torch.zeros(tensors.target.shape, dtype=torch.bool)
    if case.ours == "SCE":
        variance = torch.stack(tensors.deltas).var(0, unbiased=False)
        return at_ends(variance, [int(variance.count_nonzero() * case.renamed["select"])])
    for donor in tensors.donors:
        count = int(donor.density * donor.delta.numel())
        outliers = 0
        if case.ours == "Breadcrumbs":
            gamma = case.renamed.get("gamma", 0.01)
            outliers = min(int(gamma * donor.delta.numel()), donor.delta.numel() - count)
        marked |= at_ends(donor.delta.abs(), [outliers, outliers + count])
    return marked


def at_ends(magnitudes: Tensor, ends: list[int]) -> Tensor:
    """Marks magnitudes that are, but for rounding, on both sides of where so many of the largest end."""
    in_order = magnitudes.flatten().sort(descending=True).values
    marked = torch.zeros(magnitudes.shape, dtype=torch.bool)
    for end in ends:
        if 0 < end < len(in_order) and in_order[end - 1] <= in_order[end] * (1 + ROUNDING):
            marked |= (magnitudes - in_order[end]).abs() <= in_order[end] * ROUNDING
    return marked


@dataclass
class Gap:
    """How far two checkpoints lie apart."""

    largest: float = 0.0
    where: str = ""
    units: int = 0
    """Largest difference in units of the last place, where it is above the tolerance: near 0 units are tiny."""
    differ: int = 0
    numbers: int = 0
    left_out: int = 0

    def take(self, other: "Gap") -> None:
        """Adds another one."""
        if not other.largest <= self.largest:
            self.largest, self.where = other.largest, other.where
        self.units = max(self.units, other.units)
        for name in ("differ", "numbers", "left_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def compare(case: Case, ours: Path, theirs: Path, plan: MergePlan) -> Gap:
    """Compares two merged checkpoints."""
    own, other = Checkpoint(ours), Checkpoint(theirs)
    if own.names != other.names:
        raise SystemExit(f"{case.theirs}: other weights are written: {sorted(own.names ^ other.names)[:5]}")
    found, planned = Gap(), {weight.place.name: weight for weight in plan.outputs}
    for name in sorted(own.names):
        first, second = own[name], other[name]
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            raise SystemExit(f"{name}: {first.dtype} {first.shape} of ours, {second.dtype} {second.shape} of mergekit")
        gaps = (first.double() - second.double()).abs()
        left_out = 0
        if case.kind == "cut":
            marked = equal_at_cut(case, plan.tensors(planned[name])) & (gaps > 0)
            gaps, left_out = gaps.masked_fill(marked, 0.0), int(marked.sum())
        units = 0
        if first.dtype is torch.bfloat16:
            units = int(torch.where(gaps > TOLERANCE, (in_order(first) - in_order(second)).abs(), 0).max())
        gap = Gap(gaps.max().item(), name, units, int((gaps > 0).sum()), gaps.numel(), left_out)
        found.take(gap)
    return found


def in_order(values: Tensor) -> Tensor:
    """Numbers the values of bfloat16 in their order."""
    bits = values.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint."""

    name: str
    sizes: Sizes
    dtype: str


KINDS = (
    Kind("float32", Sizes(), "float32"),
    Kind("float32, tied", Sizes(tied=True), "float32"),
    Kind("bfloat16", Sizes(), "bfloat16"),
    Kind("bfloat16, tied", Sizes(tied=True), "bfloat16"),
)
EXTRACTION = "extract_lora"
RANKS = (4, 16, 64)
"""Of adapters; with the last, factors hold the whole of each difference."""
VLM = Kind("Qwen2.5-VL, float32", Sizes(tied=True, vision_depth=2), "float32")


def runs(case: Case, place: int) -> Iterator[Kind]:
    """Chooses kinds of checkpoints: float32 of both forms, one of bfloat16, some on a VLM."""
    yield from KINDS[:2]
    if case.kind != "ranked" and "select_topk" not in case.options:
        yield KINDS[2 + place % 2]
    if not case.told and case.kind == "exact":
        yield VLM


class Bench:
    """Merges by both, and compares.

    Args:
        folder: For everything that is written.
        merger: mergekit's side.
    """

    def __init__(self, folder: Path, merger: Merger) -> None:
        self._folder = folder
        self._merger = merger
        self._written: dict[tuple[str, int], list[Path]] = {}

    def gap(self, case: Case, kind: Kind, seed: int) -> Gap:
        """Runs one case on one kind of checkpoint."""
        models = self._models(kind, seed)
        path, uniforms = self._folder / "recipe.yaml", self._folder / "uniforms.safetensors"
        outputs = {side: self._folder / side for side in ("ours", "theirs")}
        for output in outputs.values():
            shutil.rmtree(output, ignore_errors=True)
        path.write_text(json.dumps(recipe(case, models, seed)))
        request = {
            "config": configuration(case, models, kind.dtype), "out": str(outputs["theirs"]),
            "options": {"copy_tokenizer": False, "write_model_card": False},
        }  # fmt: skip
        plan = planned_merge(path)
        if case.kind in ("drawn", "ranked"):
            write_uniforms(case, plan, uniforms)
            request["uniforms"] = str(uniforms)
        self._merger.ask(request)
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            merge.run("merge", ["--config", str(path), "--output", str(outputs["ours"])])
        return compare(case, outputs["ours"], outputs["theirs"], plan)

    def adapter_gap(self, kind: Kind, rank: int, seed: int) -> AdapterGap:
        """Extracts adapters from one kind of checkpoint."""
        base, tuned, *_ = self._models(kind, seed)
        return adapter_gap(self._folder, self._merger, base, tuned, rank)

    def _models(self, kind: Kind, seed: int) -> list[Path]:
        if (kind.name, seed) not in self._written:
            models = [self._folder / f"{kind.name.replace(', ', '-')}-{seed}-{place}" for place in range(4)]
            for place, model in enumerate(models):
                write(model, kind.sizes, kind.dtype, seed, place or None, CHANGE, largest_shard=5e5)
            self._written[kind.name, seed] = models
        return self._written[kind.name, seed]


def line(case: Case) -> str:
    """Names a case."""
    words = [f"{name} {value}" for name, value in case.options.items() if name != "t"]
    if case.densities is not None and not case.told:
        words.append(f"density {case.densities}")
    if case.weights is not None and not case.told:
        words.append(f"weight {case.weights}")
    return ", ".join([*words, *([case.told] if case.told else [])]) or "-"


def compare_merges(bench: Bench, cases: list[Case], seeds: int) -> list[str]:
    """Prints a table of merges; returns those that differ."""
    print("| operation | settings | float32 | bfloat16: units in the last place | differ | equal at a cut |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    failed, worst = [], 0.0
    for place, case in enumerate(cases):
        found = {name: Gap() for name in DTYPES}
        for seed in range(seeds):
            for kind in runs(case, place):
                found[kind.dtype].take(bench.gap(case, kind, seed))
        single, half = found["float32"], found["bfloat16"]
        rounded = (
            f"{half.units} | {half.differ} of {half.numbers} | {half.left_out} |" if half.numbers else "- | - | - |"
        )
        # A NaN must not pass.
        bad = not single.largest <= TOLERANCE or half.units > 1
        mark = f" DIFFERS at {single.where} or {half.where}" if bad else ""
        print(f"| {case.theirs} | {line(case)} | {single.largest:.1e} | {rounded}{mark}", flush=True)
        worst = max(worst, single.largest)
        failed += [f"{case.theirs} ({line(case)})"] if bad else []
    print(f"\nlargest of all in float32: {worst:.1e}, at most {TOLERANCE:.0e} wanted")
    return failed


def compare_adapters(bench: Bench, seeds: int) -> list[str]:
    """Prints a table of adapters; returns those that differ."""
    print("\nproducts of adapters' factors, largest relative differences; relative errors of all products together\n")
    print("| checkpoints | rank | modules | apart | error of ours | of mergekit's | mergekit's other tensors |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    failed = []
    for kind in KINDS:
        for rank in RANKS:
            for seed in range(seeds):
                found = bench.adapter_gap(kind, rank, seed)
                bad = not found.largest <= ADAPTER_TOLERANCE[kind.dtype] or not found.ours <= found.theirs + 1e-6
                mark = " DIFFERS" if bad else ""
                print(f"| {kind.name} | {rank} | {found.line} |{mark}", flush=True)
                failed += [f"adapter of rank {rank}, {kind.name}"] if bad else []
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_mergekit_option(parser)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--operations", nargs="+", help="as mergekit names them, and extract_lora; by default all")
    options = parser.parse_args()
    version = refuse_without_mergekit(options.mergekit_python, __file__)
    logging.getLogger("lit_vlm").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"mergekit {version}, torch {torch.__version__}, {options.seeds} seeds; largest absolute differences\n")
    wanted, failed = options.operations, []
    cases = [case for case in (*value_cases(), *delta_cases()) if wanted is None or case.theirs in wanted]
    merger = mergekit(options.mergekit_python, threads=1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), merger)
            if cases:
                failed += compare_merges(bench, cases, options.seeds)
            if wanted is None or EXTRACTION in wanted:
                failed += compare_adapters(bench, options.seeds)
    finally:
        merger.end()
    if failed:
        print(f"DIFFERS: {'; '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
