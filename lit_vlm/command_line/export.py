"""The verb ``export``: writes a trained model from a run or a checkpoint, for other programs to load."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console
from rich.progress import Progress

from lit_vlm.command_line.catalogue import read_yaml
from lit_vlm.command_line.exported_checkpoint import CONFIGURATION, Exported, find_exported
from lit_vlm.command_line.parse_errors import explain
from lit_vlm.functional.training_card import CARD, TrainedModel, read_report, training_card
from lit_vlm.functional.training_checkpoint import TrainingCheckpoint, open_training_checkpoint
from lit_vlm.functional.whole_folder import check_replaceable
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.model_export import (
    Backbone,
    ExportSettings,
    ExportSummary,
    JudgingHead,
    export_model,
    writes_adapter,
)

DESCRIPTION = "Writes a trained model as a folder that from_pretrained, PEFT and vLLM load, from a run's checkpoint."
WORDS = (
    "source", "output", "checkpoint", "config", "base", "adapter", "dtype", "shard_size", "overwrite",
)  # fmt: skip
SECTIONS: Mapping[str, type | None] = {**dict.fromkeys(WORDS), "backbone": Backbone}


@dataclass(frozen=True)
class ExportOptions:
    """What the verb was asked for."""

    found: Exported
    output: Path
    base: str | None
    """Where the model lies that the run began with, if elsewhere than then."""
    settings: ExportSettings


def run(verb: str, arguments: list[str]) -> int:
    """Finds a checkpoint, and writes its model.

    Raises:
        UserError: The command line or the checkpoint is wrong, or the folder holds something.
    """
    options = parse_options(arguments)
    configuration = read_yaml(options.found.configuration)
    backbone = read_backbone(configuration, options)
    checkpoint = open_training_checkpoint(options.found.checkpoint)
    alone = writes_adapter(backbone, options.settings)
    print(f"checkpoint: {options.found.checkpoint}")

    def add_card(folder: Path) -> None:
        card = training_card(described(configuration, options.found, checkpoint, "adapter" if alone else "model"))
        (folder / CARD).write_text(card, encoding="utf-8")

    try:
        with _progress() as advance:
            summary = export_model(
                checkpoint, backbone, options.output, options.settings, judging_head(configuration), add_card, advance
            )
    except OSError as fault:
        raise UserError(
            f"--output: {str(options.output)!r} cannot be written: {fault}; make room there, or name another folder"
        ) from fault
    print("\n".join(conclude(summary, options.found)))
    return 0


def parse_options(arguments: Sequence[str]) -> ExportOptions:
    """Reads a command line.

    Raises:
        UserError: An option is wrong or missing, there is no such checkpoint, or the folder holds something.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _parser()
    try:
        given = parser.parse_args(list(arguments))
    except ArgumentError as mistake:
        raise UserError(explain(mistake, SECTIONS)) from mistake
    if given.output is None:
        raise UserError("--output is missing; name the folder to write")
    output = Path(given.output).expanduser()
    check_replaceable(output, given.overwrite)
    found = find_exported(Path(given.source).expanduser(), given.checkpoint, given.config and Path(given.config))
    settings = ExportSettings(given.adapter, given.dtype, given.shard_size, given.overwrite)
    return ExportOptions(found, output, given.base, settings)


def read_backbone(configuration: Mapping[str, Any], options: ExportOptions) -> Backbone:
    """Builds what the run was told of its model.

    Raises:
        UserError: The run has no model of its own, or its configuration is of another version.
    """
    path = options.found.configuration
    given = _init_args(configuration).get("backbone")
    if not isinstance(given, Mapping):
        raise UserError(f"{path} has no model.backbone, so that there is no model to export; give another --config")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Backbone, "backbone")
    try:
        backbone: Backbone = parser.instantiate(parser.parse_object({"backbone": dict(given)})).backbone
    except (ArgumentError, ValueError) as mistake:
        if isinstance(mistake, UserError):
            raise
        raise UserError(f"{path}: model.backbone cannot be read: {explain(mistake, SECTIONS)}") from mistake
    if (configuration.get("trainer") or {}).get("precision") == "bf16-true":
        backbone = replace(backbone, dtype="bfloat16")
    return backbone if options.base is None else replace(backbone, checkpoint=options.base, revision=None)


def judging_head(configuration: Mapping[str, Any]) -> JudgingHead | None:
    """Tells what a model judges, where it has a head for that."""
    judged: JudgingHead | None = _init_args(configuration).get("hallucination")
    return judged


def described(
    configuration: Mapping[str, Any], found: Exported, checkpoint: TrainingCheckpoint, kind: Literal["model", "adapter"]
) -> TrainedModel:
    """Gathers what the model card tells; figures only where they were measured of these weights."""
    steps = checkpoint.progress.get("global_step")
    report = read_report(found.run)
    measured = report if report is not None and steps in (None, report.get("steps")) else None
    return TrainedModel(configuration, kind, measured, steps)


def conclude(summary: ExportSummary, found: Exported) -> list[str]:
    """Tells what was written, and what may come next."""
    use = "adapter.load" if summary.kind == "adapter" else "checkpoint"
    config, output = shlex.quote(str(found.configuration)), shlex.quote(str(summary.output))
    return [
        f"{summary.kind} of {summary.weights} weights, {summary.size / 1e6:,.1f} MB; {summary.seconds:.1f} s",
        f"wrote {summary.output}",
        f"next: lit-vlm test --config {config} --model.backbone.{use} {output}",
    ]


def _init_args(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    given = (configuration.get("model") or {}).get("init_args")
    return given if isinstance(given, Mapping) else {}


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many bytes are written."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("exporting", total=None)
        yield lambda size: progress.advance(task, size)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="lit-vlm export", description=DESCRIPTION, exit_on_error=False)
    parser.add_argument("source", type=str, help="A run's folder, a .ckpt file, or a checkpoint in pieces.")
    parser.add_argument("--output", "-o", type=str, help="Folder that is written.")
    parser.add_argument(
        "--checkpoint", type=Literal["newest", "best"], default="newest", help="Which one of a run's folder."
    )
    parser.add_argument("--config", type=str, help=f"The run's {CONFIGURATION}, where it is not beside the checkpoint.")
    parser.add_argument("--base", type=str, help="The model that training began with, where it lies elsewhere now.")
    parser.add_argument(
        "--adapter",
        type=Literal["keep", "merged"] | None,
        help="An adapter alone, or merged into its base; by default as the recipe has it.",
    )
    parser.add_argument(
        "--dtype", type=Literal["float32", "bfloat16", "float16"] | None, help="Type of the weights; the run's own."
    )
    parser.add_argument("--shard_size", type=str, default="5GB", help="Largest file of weights.")
    parser.add_argument("--overwrite", action="store_true", help="Replaces a model that lies at --output.")
    return parser
