"""Brings what a model has learnt on text into the fine-tuning of a VLM: SFT, naive merging and DRIFT, several seeds.

The prior is the bundled model's decoder after puzzles in text alone (``drift/text_reasoner``). Each seed fine-tunes
the bundled model on pages of digits (``drift/drift``; SFT is the same run with alpha 0, which changes no gradient),
adds the prior's difference to the bundled model to what SFT has left, and tests all of them on pages of digits and on
the prior's puzzles, both asked without the instruction. A cell has the mean over seeds and its 95 % interval by
Student's t.

    lit-vlm fit --config drift/text_reasoner
    python benchmarks/compare_drift.py
"""

import argparse
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compare_recipes import command, tested

PRIOR = "runs/text_reasoner/version_0/model"
TASKS = {"DigitsReasoning": 64, "KnightsAndKnaves": 160}
"""What is tested, and the longest completion."""
VARIANTS = {
    "SFT": ["--model.bias.init_args.alpha", "0"],
    "DRIFT": [],
    "DRIFT, gradnorm, attention alone": [
        "--model.bias.init_args.mode=gradnorm",
        "--model.bias.init_args.modules=[attn]",
    ],
}
MERGED = {"SFT, then the whole difference added": 1.0, "SFT, then half of it added": 0.5}
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantiles of 97.5 % by the number of seeds."""


def cell(shares: list[float]) -> str:
    """Writes mean and interval, in percent."""
    mean = statistics.mean(shares)
    if len(shares) < 2:
        return f"{100 * mean:.1f}"
    half = STUDENT[len(shares)] * statistics.stdev(shares) / len(shares) ** 0.5
    return f"{100 * mean:.1f} ({100 * (mean - half):.1f} to {100 * (mean + half):.1f})"


def figures(checkpoint: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Tests a model on all tasks."""
    return {
        task: tested(
            checkpoint,
            task,
            options.test_size,
            folder,
            1,
            "--data.system_prompt=null",
            f"--model.generation.max_new_tokens={tokens}",
        )["exact_match"]
        for task, tokens in TASKS.items()
    }


def run_seed(seed: int, prior: str, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Trains, merges and tests everything for one seed."""
    found = {}
    for place, (name, words) in enumerate(VARIANTS.items()):
        run = [f"--trainer.logger.init_args.name=seed{seed}_{place}", f"--seed_everything={seed}", *words]
        fixed = ["--trainer.enable_progress_bar=false", f"--data.train_size={options.train_size}"]
        command(["fit", "--config", "drift/drift", f"--model.bias.init_args.prior={prior}", *fixed, *run], folder, 1)
        found[name] = figures(f"runs/seed{seed}_{place}/version_0/model", options, folder)
    for name, weight in MERGED.items():
        output = f"merged_{seed}_{weight}"
        donor = f"[{{model: {prior}, weight: {weight}}}]"
        merge = [f"--merge.target=runs/seed{seed}_0/version_0/model", "--merge.base=tiny", f"--merge.donors={donor}"]
        command(["merge", "--merge.operation=TaskArithmetic", *merge, f"--output={output}"], folder, 1)
        found[name] = figures(output, options, folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default=PRIOR)
    parser.add_argument("--seeds", type=int, default=3, choices=STUDENT)
    parser.add_argument("--train_size", type=int, default=2048)
    parser.add_argument("--test_size", type=int, default=1024)
    parser.add_argument("--at_once", type=int, default=2, help="seeds that run at the same time")
    options = parser.parse_args()
    prior = str(Path(options.prior).resolve())
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.at_once) as pool:
        folder = Path(name)
        alone = {"the bundled model": figures("tiny", options, folder), "the prior": figures(prior, options, folder)}
        seeds = list(pool.map(lambda seed: run_seed(seed, prior, options, folder), range(options.seeds)))
    print(f"| model | {' | '.join(TASKS)} |\n|{' --- |' * (len(TASKS) + 1)}")
    rows = {**{row: [found] for row, found in alone.items()}, **{row: [f[row] for f in seeds] for row in seeds[0]}}
    for row, measured in rows.items():
        print(f"| {row} | {' | '.join(cell([one[task] for one in measured]) for task in TASKS)} |")


if __name__ == "__main__":
    main()
