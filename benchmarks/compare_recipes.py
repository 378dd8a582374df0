"""Trains the bundled model by several recipes, and sets what came of it as one table.

Each recipe runs as ``lit-vlm fit --config RECIPE`` does; its report gives held-out figures before and after. The model
that it exports is then tested as ``lit-vlm test`` does, on tasks that it was not trained on and that are asked with the
usual instruction: puzzles in text alone (``KnightsAndKnaves``) and drawn scenes (``ShapeScenes``). The first row is the
bundled model itself.

    python benchmarks/compare_recipes.py preference/alignment_dpo preference/alignment_steerlm \
        preference/alignment_rsft preference/alignment_sft
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

METRICS = {"exact_match": "exact match", "pair_accuracy": "pair accuracy"}
OTHERS = ("KnightsAndKnaves", "ShapeScenes")
FIGURE = re.compile(r"│\s+test/(exact_match(?:_low|_high)?)\s+│\s+([\d.e-]+)\s+│")


def command(words: list[str], folder: Path, threads: int) -> str:
    """Runs ``lit-vlm`` in a folder and returns what it printed; ends where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "lit_vlm", *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"lit-vlm {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def shown(figures: dict[str, float], name: str) -> str:
    """Writes a share with its interval, in percent."""
    if name not in figures:
        return "-"
    mean, low, high = (100 * figures[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{mean:.1f} ({low:.1f}-{high:.1f})"


def tested(checkpoint: str, data: str, size: int, folder: Path, threads: int, *more: str) -> dict[str, float]:
    """Tests a checkpoint on other tasks; ``more`` are further options."""
    words = ["test", "--model", "SFTModule", "--model.backbone.checkpoint", checkpoint, "--data", data]
    words += ["--data.test_size", str(size), "--trainer.enable_progress_bar=false", "--trainer.logger=false", *more]
    return {name: float(value) for name, value in FIGURE.findall(command(words, folder, threads))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--others", nargs="*", default=OTHERS, help="DataModules to test on afterwards")
    parser.add_argument("--test_size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    columns = ["recipe", "steps", "seconds", *METRICS.values(), *options.others]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def others(checkpoint: str) -> list[str]:
            size, threads = options.test_size, options.threads
            return [shown(tested(checkpoint, data, size, folder, threads), "exact_match") for data in options.others]

        untrained = others("tiny")
        for place, recipe in enumerate(options.recipes):
            command(["fit", "--config", recipe, "--trainer.enable_progress_bar", "false"], folder, options.threads)
            (run,) = (folder / "runs").glob(f"{Path(recipe).name}/version_0")
            report = json.loads((run / "report.json").read_text())
            if not place:
                before = [shown(report["before"]["metrics"], metric) for metric in METRICS]
                print(f"| {' | '.join(['none', '0', '0', *before, *untrained])} |", flush=True)
            after = [shown(report["after"]["metrics"], metric) for metric in METRICS]
            took = [str(report["steps"]), f"{report['training_seconds']:.0f}"]
            print(f"| {' | '.join([recipe, *took, *after, *others(str(run / 'model'))])} |", flush=True)


if __name__ == "__main__":
    main()
