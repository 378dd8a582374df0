"""The ``lit-vlm`` command: chooses the verb, and turns user mistakes into one clear line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from lit_vlm import __version__
from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.interfaces.errors import UserError

# Verb, module of lit_vlm.command_line with run(verb, arguments) -> exit status, what it does.
VERBS = {
    "fit": ("training", "train a model: lit-vlm fit --config quickstart"),
    "validate": ("training", "measure a model on the validation split"),
    "test": ("training", "measure a model on the test split"),
    "predict": ("training", "write a model's completions to a ledger, and tell pass@k"),
    "merge": ("merge", "compute a model from the weights of others: lit-vlm merge --config NAME --output FOLDER"),
    "export": ("export", "write a trained model for other programs: lit-vlm export RUN --output FOLDER"),
    "pipeline": ("pipeline", "run the stages of a recipe over rounds: lit-vlm pipeline --config pipelines/NAME"),
    "doctor": ("doctor", "check a recipe on its model and data before a run: lit-vlm doctor --config quickstart"),
    "data": ("data", "look into a recipe's data as its model gets them: lit-vlm data --config quickstart"),
    "recipes": ("recipes", "list the recipes that ship with lit-vlm; 'recipes show NAME' prints one"),
    "tiny": ("tiny", "build an untrained tiny VLM: lit-vlm tiny FOLDER"),
    "repeat": ("repeat", "run a step again that was infinite or NaN: lit-vlm repeat RUN/faults/STEP"),
    "completion": ("completion", "print a completion script: lit-vlm completion bash|zsh"),
}


def help_text() -> str:
    """Describes the command and its verbs."""
    lines = [
        "usage: lit-vlm VERB [options]",
        "",
        "Post-trains vision-language models for reasoning: one recipe a method.",
        "",
        "verbs:",
        *(f"  {verb:<11}{summary}" for verb, (_, summary) in VERBS.items()),
        "",
        "options:",
        "  --config NAME|FILE   a shipped recipe or a YAML file; several merge, later ones win",
        "  --print_config       print the resolved configuration and stop",
        "  --debug              show the traceback of an error",
        "  --version, --help    'lit-vlm fit --help' lists the options of a run",
        "",
        "examples:",
        "  lit-vlm fit --config quickstart",
        "  lit-vlm fit --config quickstart --model.optimizer.learning_rate 5e-4 --trainer.max_epochs 2",
        "  lit-vlm test --config runs/quickstart/version_0/config.yaml --model.backbone.checkpoint "
        "runs/quickstart/version_0/model",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: The command line without the program's name; that of the process by default.

    Returns:
        Exit status: 0 for success, 2 for a mistake in what the user gave, which is told in one line on stderr.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"lit-vlm {__version__}")
        return 0
    try:
        return _run(words[0], words[1:])
    except SystemExit as end:  # the parser's way of ending after --help or --print_config
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except UserError as mistake:
        if debug:
            raise
        print(f"lit-vlm: error: {' '.join(str(mistake).split())}", file=sys.stderr)
        return 2


def _run(verb: str, arguments: list[str]) -> int:
    if verb not in VERBS:
        raise UserError(f"there is no verb {verb!r}{did_you_mean(verb, VERBS)}; verbs are {', '.join(VERBS)}")
    # It complains of optional kernels while it is imported, which every run with peft does.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    module = import_module(f"lit_vlm.command_line.{VERBS[verb][0]}")
    status: int = module.run(verb, arguments)
    return status
