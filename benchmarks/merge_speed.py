"""Throughput of whole merges, ours against mergekit's and against copying files, on the same checkpoints.

All three take turns on checkpoints of random weights, each time in a fresh process that has merged small checkpoints of
the same form in the same way before, so that its libraries are loaded; the first one changes from round to round. A
merge is timed from the reading of its settings to its last byte on the disk
(mergekit and ``cp`` leave files in the system's cache; they are written out before the clock stops), model card,
tokenizer and hashes included. Throughput counts the bytes of weights read and written, in GB of 10**9 bytes a second:
of two donors and a base, 3 are read and 1 written. ``cp`` reads and writes as many bytes as that merge: as many
checkpoints as it reads, less those that it does not write, which are read into nothing.

Before each turn the inputs are either dropped from the system's cache (``--cache cold``) or read into it (``warm``).
mergekit computes in the type that the files have, bfloat16, unless it is told otherwise; ours always computes in
float32. ``--mergekit_dtype float32`` lets both do the same arithmetic.

Peak memory is in MiB: all pages, with those of mapped files, and the process's own alone; both contain what the loaded
libraries take.

    python benchmarks/merge_speed.py --mergekit_python MERGEKIT/bin/python
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_sides import (
    Merger,
    add_mergekit_option,
    flush,
    forget,
    lit_vlm,
    mergekit,
    refuse_without_mergekit,
    remember,
    weight_bytes,
)
from synthetic_checkpoint import Sizes, of_size, write

WANTED = {"mergekit": 1.0}
EVERYWHERE = [{"filter": "*", "value": 0.5}]


@dataclass(frozen=True)
class Operation:
    """One merge in both libraries' words."""

    theirs: str
    ours: str
    reads: int
    """Checkpoints, base included."""
    has_base: bool = True
    options: tuple[tuple[str, Any], ...] = ()
    """Of ours."""
    density: float | None = None


OPERATIONS = {
    "task_arithmetic": Operation("task_arithmetic", "TaskArithmetic", 3),
    "linear": Operation("linear", "Linear", 2, has_base=False),
    "slerp": Operation("slerp", "Slerp", 2, has_base=False, options=(("t", 0.5),)),
    "ties": Operation("ties", "TIES", 3, density=0.2),
}


def theirs(operation: Operation, models: list[Path], dtype: str) -> dict[str, Any]:
    """Writes mergekit's settings."""
    shared: dict[str, Any] = {"merge_method": operation.theirs}
    if dtype != "stored":
        shared |= {"dtype": dtype, "out_dtype": "bfloat16"}
    if operation.theirs == "slerp":
        listed = [{"model": str(model)} for model in models]
        return {**shared, "base_model": str(models[0]), "models": listed, "parameters": {"t": 0.5}}
    parameters: dict[str, Any] = {"weight": 0.5}
    if operation.density is not None:
        parameters["density"] = operation.density
    if operation.has_base:
        shared["base_model"] = str(models[0])
    listed = [{"model": str(model), "parameters": parameters} for model in models[operation.has_base :]]
    return {**shared, "models": listed}


def ours(operation: Operation, models: list[Path]) -> dict[str, Any]:
    """Writes our settings."""
    donor: dict[str, Any] = {"weight": EVERYWHERE}
    if operation.density is not None:
        donor["density"] = operation.density
    settings: dict[str, Any] = {"operation": {"class_path": operation.ours, "init_args": dict(operation.options)}}
    given = models
    if operation.has_base:
        settings["base"] = str(models[0])
        given = models[1:]
    if operation.ours == "Slerp":
        donor = {}
    return {**settings, "donors": [{"model": str(model), **donor} for model in given]}


@dataclass
class Turn:
    """Figures of one turn."""

    seconds: float
    processor_seconds: float = 0.0
    all_pages: float = 0.0
    own_pages: float = 0.0


def merged(start: Callable[[], Merger], warm_up: dict[str, Any], request: dict[str, Any], output: Path) -> Turn:
    """Lets a fresh process merge, small checkpoints first."""
    merger = start()
    try:
        merger.ask(warm_up)
        found = merger.ask(request)
    finally:
        merger.end()
    return Turn(found["seconds"] + flush(output), found["processor_seconds"], found["VmHWM"], found["RssAnon"])


def copied(models: list[Path], output: Path) -> Turn:
    """Copies one checkpoint and reads the others."""
    output.mkdir()
    start, work = time.perf_counter(), time.process_time()
    for path in sorted(models[0].glob("*.safetensors")):
        shutil.copyfile(path, output / path.name)
    for model in models[1:]:
        remember(model)
    return Turn(time.perf_counter() - start + flush(output), time.process_time() - work)


class Bench:
    """Runs the turns of one operation.

    Args:
        options: Of the command line.
        models: Base and donors.
        folder: For what is written.
    """

    def __init__(self, options: argparse.Namespace, models: list[Path], folder: Path) -> None:
        self._options = options
        self._models = models
        self._output = folder / "output"
        self._small_output = folder / "small-output"
        self._small = [folder / f"small-{place}" for place in range(len(models))]
        for place, model in enumerate(self._small):
            write(model, Sizes(), change_seed=place or None)

    def run(self, name: str) -> dict[str, list[Turn]]:
        """Takes turns with one operation."""
        operation = OPERATIONS[name]
        models = self._models[: operation.reads]
        their_words, our_words = self._requests(operation, models, self._output)
        their_warm_up, our_warm_up = self._requests(operation, self._small[: operation.reads], self._small_output)
        threads, python = self._options.threads, self._options.mergekit_python
        sides: dict[str, Callable[[], Turn]] = {
            "mergekit": lambda: merged(lambda: mergekit(python, threads), their_warm_up, their_words, self._output),
            "ours": lambda: merged(lambda: lit_vlm(threads), our_warm_up, our_words, self._output),
            "copy": lambda: copied(models, self._output),
        }
        found: dict[str, list[Turn]] = {side: [] for side in sides}
        order = list(sides)
        for _ in range(self._options.rounds):
            for side in order:
                self._prepare(models)
                found[side].append(sides[side]())
                written = weight_bytes(self._output)
                if abs(written / weight_bytes(models[0]) - 1) > 0.001:
                    raise SystemExit(f"{side} wrote {written} bytes of weights for {name}")
            order.append(order.pop(0))
        self._prepare([])
        return found

    def _requests(
        self, operation: Operation, models: list[Path], output: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        recipe = output.with_suffix(".json")
        recipe.write_text(json.dumps({"merge": ours(operation, models)}))
        request = {"config": theirs(operation, models, self._options.mergekit_dtype), "out": str(output)}
        return request, {"arguments": ["--config", str(recipe), "--output", str(output)]}

    def _prepare(self, models: list[Path]) -> None:
        for output in (self._output, self._small_output):
            shutil.rmtree(output, ignore_errors=True)
        for model in models:
            if self._options.cache == "cold":
                forget(model)
            else:
                remember(model)


def spread(values: list[float], digits: int) -> str:
    """Writes median and quartiles."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def row(name: str, found: dict[str, list[Turn]], gigabytes: float) -> tuple[str, dict[str, float]]:
    """Writes a row of the table, and returns the medians of the ratios."""
    rates = {side: [gigabytes / turn.seconds for turn in turns] for side, turns in found.items()}
    ratios = {
        other: [own / rate for own, rate in zip(rates["ours"], rates[other], strict=True)]
        for other in ("mergekit", "copy")
    }
    columns = [spread(rates[side], 3) for side in ("ours", "mergekit", "copy")]
    columns += [spread(found_ratios, 2) for found_ratios in ratios.values()]
    for figure in ("processor_seconds", "all_pages", "own_pages"):
        medians = [statistics.median(getattr(turn, figure) for turn in found[side]) for side in ("ours", "mergekit")]
        columns.append(" / ".join(f"{median:.{1 if figure == 'processor_seconds' else 0}f}" for median in medians))
    return (
        f"| {name} | {gigabytes:.2f} | {' | '.join(columns)} |",
        {other: statistics.median(values) for other, values in ratios.items()},
    )


COLUMNS = (
    "operation", "GB read and written", "ours GB/s", "mergekit GB/s", "copy GB/s", "ours / mergekit", "ours / copy",
    "processor s, ours / mergekit", "peak of all pages, MiB", "peak of own pages, MiB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_mergekit_option(parser)
    parser.add_argument("--mergekit_dtype", choices=("stored", "float32"), default="stored")
    parser.add_argument("--operations", nargs="+", choices=tuple(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of a checkpoint, in bfloat16")
    parser.add_argument("--cache", choices=("cold", "warm"), default="warm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where there is room for 5 checkpoints")
    options = parser.parse_args()
    version = refuse_without_mergekit(options.mergekit_python, __file__)
    sizes = of_size("qwen2", options.gigabytes)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        models = [Path(folder) / f"model-{place}" for place in range(3)]
        free = shutil.disk_usage(folder).free
        if free < 5e9 * options.gigabytes:
            raise SystemExit(f"{folder} has {free / 1e9:.1f} GB left; 5 checkpoints need {5 * options.gigabytes:.1f}")
        for place, model in enumerate(models):
            write(model, sizes, change_seed=place or None)
            forget(model)
        size = weight_bytes(models[0]) / 1e9
        computing = "bfloat16" if options.mergekit_dtype == "stored" else "float32"
        print(
            f"{size:.2f} GB a checkpoint, mergekit {version} computing in {computing}, {options.threads} threads, "
            f"{options.cache} cache, {options.rounds} rounds; medians and quartiles"
        )
        print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
        bench = Bench(options, models, Path(folder))
        failed = []
        for name in options.operations:
            told, ratios = row(name, bench.run(name), (OPERATIONS[name].reads + 1) * size)
            print(told, flush=True)
            failed += [f"{name} / {other}" for other, wanted in WANTED.items() if ratios[other] < wanted]
    if failed:
        print(f"below what is wanted: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
