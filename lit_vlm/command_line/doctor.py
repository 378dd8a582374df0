"""The verb ``doctor``: checks a recipe on its own model and data, in a temporary folder, before the first run."""

from __future__ import annotations

import logging
import tempfile
import warnings
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_vlm.callbacks.resumption import Resumption
from lit_vlm.command_line.data import DataCommandLine
from lit_vlm.command_line.training import parse, prepare
from lit_vlm.health.checkup import check_module, examine
from lit_vlm.health.finding import Finding
from lit_vlm.health.resume_exactness import Workshop
from lit_vlm.interfaces.errors import UserError

SAMPLES = 16
HELP = f"""\
usage: lit-vlm doctor --config NAME|FILE [options]

Checks a recipe on its own model and data: records and answers, images, template, sampling, saving and resuming. Takes
about a minute on the bundled model. Writes into a temporary folder only.

options:
  --samples N         training samples to look at (default {SAMPLES})
  --config, --model…, --data…, --trainer…   as in 'lit-vlm fit'

Ends with status 1 where a check fails."""
COLOURS = {"pass": "green", "fail": "bold red", "not applicable": "dim"}
TAKEN = ("precision", "accelerator", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
"""What a short run on one device takes from the recipe's Trainer."""


class DoctorCommandLine(DataCommandLine):
    """Parses what ``fit`` parses, and makes model, data and Trainers as often as they are asked for."""

    def instantiate_classes(self) -> None:
        """Checks that there is something to look at, and that model and data can be made.

        Raises:
            UserError: The module does not train a policy.
        """
        # Before the module looks for checkpoints, whose lack would hide it.
        module, _, name = self._get(self.config, "model").class_path.rpartition(".")
        check_module(getattr(import_module(module), name))
        self.build()

    def build(self) -> tuple[Any, Any]:
        """Seeds, and makes module and data anew."""
        seed = self._get(self.config, "seed_everything")
        if seed is not False:
            seed_everything(None if seed is True else seed, workers=True, verbose=False)
        super().instantiate_classes()
        return self.model, self.datamodule

    def user_trainer(self, folder: Path) -> Trainer:
        """Makes the recipe's Trainer, with its files in another folder and none of its callbacks.

        Raises:
            UserError: This machine or Lightning cannot do what it asks for.
        """
        settings = self.config.clone()
        options = {"logger": False, "callbacks": None, "enable_checkpointing": False, "default_root_dir": str(folder)}
        for name, value in options.items():
            settings[self.subcommand].trainer[name] = value
        self.config_init = self.parser.instantiate_classes(settings)
        return self.instantiate_trainer()

    def short_trainer(self, folder: Path, steps: int, stop: int, save_to: Path | None) -> Trainer:
        """Makes a Trainer on one device, whose schedule has ``steps`` and which ends after ``stop`` of them."""
        given = self._get(self.config, "trainer")
        options = {name: given.get(name) for name in TAKEN}
        return Trainer(
            **options,
            devices=1,
            max_steps=steps,
            logger=False,
            callbacks=[Resumption(), StopAfter(stop, save_to)],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )


class StopAfter(Callback):
    """Ends a run after some optimizer steps, and saves it."""

    def __init__(self, steps: int, save_to: Path | None) -> None:
        self.steps = steps
        self.save_to = save_to

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and ends where enough steps were taken."""
        if trainer.global_step >= self.steps and not trainer.should_stop:
            if self.save_to is not None:
                trainer.save_checkpoint(self.save_to)
            trainer.should_stop = True


def run(verb: str, arguments: list[str]) -> int:
    """Checks a recipe.

    Returns:
        Exit status: 1 where a check failed, 0 otherwise.

    Raises:
        UserError: The command line, a recipe, or what they ask for is wrong.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    samples, others = parse_options(arguments)
    words, recipe = prepare("fit", others)
    built: Any = parse(DoctorCommandLine, "fit", words, recipe)
    console = Console()
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="lit-vlm-doctor-") as name, quiet():
        folder = Path(name)
        workshop = Workshop(built.build, lambda *settings: built.short_trainer(folder, *settings))
        for finding in examine(workshop, lambda: built.user_trainer(folder), folder, samples):
            console.print(f"{finding.check}: {finding.status}", highlight=False)
            findings.append(finding)
    console.print(table_of(findings, recipe))
    failed = sum(finding.status == "fail" for finding in findings)
    console.print(summary(findings), highlight=False)
    return int(failed > 0)


def parse_options(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Takes the verb's own options out of a command line.

    Returns:
        Samples to look at, and the words that are left for the parser of ``fit``.

    Raises:
        UserError: The number does not fit.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--samples", default=str(SAMPLES))
    try:
        given, others = parser.parse_known_args(arguments)
    except ArgumentError as mistake:
        raise UserError(f"{mistake.argument_name}: {mistake.message}; 'lit-vlm doctor --help' tells more") from mistake
    if not given.samples.isdecimal() or int(given.samples) < 2:
        raise UserError(f"--samples: {given.samples!r} does not fit; give a whole number of at least 2")
    return int(given.samples), others


def table_of(findings: Iterable[Finding], recipe: str) -> Table:
    """Sets what was found as a table."""
    table = Table("check", "result", "what was seen, and what to do", title=f"doctor: {recipe}", show_lines=True)
    for finding in findings:
        told = Text(finding.told)
        if finding.mend:
            told.append(f"\n-> {finding.mend}", style="bold")
        table.add_row(finding.check, Text(finding.status, style=COLOURS[finding.status]), told)
    return table


def summary(findings: Sequence[Finding]) -> str:
    """Counts what was found."""
    counts = {status: sum(finding.status == status for finding in findings) for status in COLOURS}
    return f"{counts['pass']} passed, {counts['fail']} failed, {counts['not applicable']} not applicable"


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out what Lightning says of short runs."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
