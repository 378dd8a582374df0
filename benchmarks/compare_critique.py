"""Learns to judge or to solve, and tests both: critique fine-tuning and SFT on as many tokens, several seeds.

Each seed fine-tunes the bundled model on critiques of solutions of one question (``critique/one_shot_cft``) and of
many (``critique/cft``), and by the same optimizer on solutions: of many questions, and of that one. SFT takes as many
samples as the tokens of one-shot CFT are worth, prompts included. All are tested on the same held-out questions about
pages of digits, each asked once to be solved and once about a solution of it. A cell has the mean over seeds and its
95 % interval by Student's t; a judge who always says the same is right in about half of the cases.

    python benchmarks/compare_critique.py
"""

import argparse
import json
import re
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compare_drift import STUDENT, cell
from compare_recipes import command

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.models.backbone import Backbone

SHOWN = {
    "exact_match": "exact match",
    "verdict_accuracy": "verdict accuracy",
    "first_wrong_step_accuracy": "first wrong step",
}
FIGURE = re.compile(r"│\s+test/(\w+)\s+│\s+([\d.e-]+)\s+│")
ONE_SHOT, LARGE = "critique/one_shot_cft", "critique/cft"
MEASURED = 512
"""Samples by which the tokens of one are estimated."""


def tested(checkpoint: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Tests a checkpoint on both abilities."""
    words = ["test", "--model", "CritiqueModule", "--model.backbone.checkpoint", checkpoint]
    words += ["--model.generation.max_new_tokens=128", "--data", "EmbeddedCritiques"]
    words += [f"--data.test_size={2 * options.test_size}", "--data.num_workers=0"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    found = dict(FIGURE.findall(command([*words, *quiet], folder, 1)))
    return {name: float(found[name]) for name in SHOWN}


def trained(name: str, recipe: str, seed: int, words: list[str], folder: Path) -> tuple[str, int]:
    """Trains by a recipe; returns the model's folder, and the tokens that it was trained on."""
    run = [f"--trainer.logger.init_args.name={name}", f"--seed_everything={seed}", "--data.num_workers=0"]
    command(["fit", "--config", recipe, "--trainer.enable_progress_bar=false", *run, *words], folder, 1)
    place = folder / "runs" / name / "version_0"
    return str(place / "model"), int(json.loads((place / "report.json").read_text())["tokens"])


def solved_tokens(problem: int | None) -> float:
    """Counts the tokens of a question with its solution, on average."""
    encoder = Backbone().load_encoder()
    samples = DigitsReasoning(encoder, system_prompt=None).prepared("train")
    chosen = range(MEASURED) if problem is None else (problem,)
    return statistics.mean(encoder.count_tokens(samples[index]).total for index in chosen)


def run_seed(seed: int, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Trains and tests everything for one seed."""
    size = [f"--data.train_size={options.train_size}", "--data.validation_size=64"]
    one = [f"--data.problem={options.problem}"]
    critic, tokens = trained(f"one_shot_{seed}", ONE_SHOT, seed, [*size, *one], folder)
    judging = [*size, "--data.solving_share=0"]
    models = {"one-shot CFT": critic}
    for name, words in (("CFT, many questions", judging), ("CFT and SFT in turn, many questions", size)):
        models[name] = trained(f"cft_{len(models)}_{seed}", LARGE, seed, words, folder)[0]
    solving = ["--data.solving_share=0.999999", "--data.validation_size=64"]
    for name, problem in (("SFT, that one question", options.problem), ("SFT, many questions", None)):
        samples = max(32, round(tokens / solved_tokens(problem)))
        words = [*solving, f"--data.train_size={samples}", *(one if problem is not None else [])]
        run = f"sft_{'many' if problem is None else 'one'}_{seed}"
        models[name] = trained(run, LARGE, seed, words, folder)[0]
    return {name: tested(model, options, folder) for name, model in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, choices=STUDENT)
    parser.add_argument("--problem", type=int, default=4, help="the one training question")
    parser.add_argument("--train_size", type=int, default=16384, help="critiques of a run")
    parser.add_argument("--test_size", type=int, default=512, help="held-out questions")
    parser.add_argument("--at_once", type=int, default=2, help="seeds that run at the same time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.at_once) as pool:
        folder = Path(name)
        base = tested("tiny", options, folder)
        seeds = list(pool.map(lambda seed: run_seed(seed, options, folder), range(options.seeds)))
    print(f"| model | {' | '.join(SHOWN.values())} |\n|{' --- |' * (len(SHOWN) + 1)}")
    rows = {"the bundled model": [base], **{row: [found[row] for found in seeds] for row in seeds[0]}}
    for row, measured in rows.items():
        print(f"| {row} | {' | '.join(cell([one[figure] for one in measured]) for figure in SHOWN)} |")


if __name__ == "__main__":
    main()
