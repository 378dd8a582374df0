"""The verb ``data``: looks into a recipe's data as its model would get them, without loading the model."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import track

from lit_vlm.callbacks.contact_sheet import draw_contact_sheet
from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.command_line.compared_rows import compared_rows, compared_text
from lit_vlm.command_line.data_figures import SplitFigures, measure_split, overlaps, reference, shared_images
from lit_vlm.command_line.data_page import html_page
from lit_vlm.command_line.data_report import DataReport, SampleView, print_report
from lit_vlm.command_line.encoded_rows import encode_row
from lit_vlm.command_line.token_view import token_runs
from lit_vlm.command_line.training import RUNS, CommandLine, parse, prepare
from lit_vlm.data.vlm_data_module import PreparedSamples, VLMDataModule
from lit_vlm.functional.distributions import spread_evenly
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, Sample, Split
from lit_vlm.paradigms.base import VLMModule

SPLITS: tuple[Split, ...] = get_args(Split)
STAGES: dict[Split, str] = {"train": "fit", "validation": "validate", "test": "test"}
SAMPLES, SHOWN = 1000, 4
CARDS = 12
"""Samples on a contact sheet."""

HELP = f"""\
usage: lit-vlm data --config NAME|FILE [options]

Shows what a recipe's model gets to read: counts, lengths in tokens, bad samples, the token sequence with its loss mask.
Loads tokenizer and processor, no weights.

options:
  --split SPLIT       train, validation or test; repeat it for two; all by default
  --samples N|all     samples of a split to look at, evenly spaced (default {SAMPLES:,})
  --shown N           samples of a split whose tokens are shown (default {SHOWN})
  --out FOLDER        where to write data_report.html, data.json, bad_samples.jsonl and the contact sheets
                      (default {RUNS}/RECIPE/data)
  --config, --model…, --data…   as in 'lit-vlm fit'

Ends with status 1 where there are bad samples and the data do not say bad_samples: skip."""
# What the parser of ``fit`` knows without a dot.
SHARED_OPTIONS = ("config", "model", "data", "trainer", "about", "seed_everything", "print_config", "ckpt_path")


@dataclass(frozen=True)
class DataOptions:
    """What the verb was asked for."""

    splits: tuple[Split, ...]
    """Empty for all there are."""
    samples: int | None
    """None for all."""
    shown: int
    out: Path | None


class DataCommandLine(CommandLine):
    """Parses what ``fit`` parses, builds data and model settings, and runs nothing."""

    def instantiate_classes(self) -> None:
        """Builds the model's and the data's settings, no Trainer: its devices need not be here."""
        settings = self.config.clone()
        del settings[self.subcommand]["trainer"]
        self.config_init = self.parser.instantiate_classes(settings)
        self.model = self._get(self.config_init, "model")
        self.datamodule = self._get(self.config_init, "data")

    def _run_subcommand(self, subcommand: str) -> None:
        """Leaves it at that."""


def run(verb: str, arguments: list[str]) -> int:
    """Looks into the data of a recipe.

    Returns:
        Exit status: 1 where there are bad samples on which a run would end, 0 otherwise.

    Raises:
        UserError: The command line, a recipe, or what they ask for is wrong.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    options, others = parse_options(arguments)
    words, recipe = prepare(verb, others)
    built = parse(DataCommandLine, "fit", words, recipe)
    folder = options.out if options.out is not None else Path(RUNS) / recipe / "data"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: this is a file; name a folder")
    report = look_into(built.model, built.datamodule, options, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    _write_files(report, folder)
    print_report(report, Console())
    print(f"wrote {folder}/data_report.html, data.json, bad_samples.jsonl and {len(report.splits)} contact sheets")
    return int(report.bad > 0 and report.policy == "error")


def parse_options(arguments: Sequence[str]) -> tuple[DataOptions, list[str]]:
    """Takes the verb's own options out of a command line.

    Returns:
        The options, and the words that are left for the parser of ``fit``.

    Raises:
        UserError: A value does not fit, or there is no such option.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--split", action="append", default=[], choices=SPLITS)
    parser.add_argument("--samples", default=str(SAMPLES))
    parser.add_argument("--shown", default=str(SHOWN))
    parser.add_argument("--out")
    try:
        given, others = parser.parse_known_args(arguments)
    except ArgumentError as mistake:
        raise UserError(f"{mistake.argument_name}: {mistake.message}; 'lit-vlm data --help' tells more") from mistake
    known = [*SHARED_OPTIONS, *vars(given)]
    for word in others:
        option = re.fullmatch(r"--(\w+)(?:=.*)?", word, re.DOTALL)
        if option and option.group(1) not in known:
            hint = did_you_mean(option.group(1), known) or f"; there are {', '.join(known)}"
            raise UserError(f"--{option.group(1)}: there is no such option{hint}")
    samples = None if given.samples == "all" else _whole_number("samples", given.samples, 1, " or 'all'")
    return (
        DataOptions(
            splits=tuple(split for split in SPLITS if split in given.split),
            samples=samples,
            shown=_whole_number("shown", given.shown, 0),
            out=None if given.out is None else Path(given.out).expanduser(),
        ),
        others,
    )


def look_into(model: VLMModule, data: VLMDataModule, options: DataOptions, recipe: str) -> DataReport:
    """Reads, encodes and counts samples of each split.

    Args:
        model: Only its encoder is loaded.
        data: The DataModule, not yet set up.
        options: What to look at.
        recipe: Name of the recipe, for the report.

    Raises:
        UserError: The data cannot be read at all, or a split that was asked for is missing.
    """
    encoder = model.encoder
    # Bad samples are counted here, whatever a run does with them.
    policy, data.bad_samples = data.bad_samples, "skip"
    data.serve(model)
    data.prepare_data()
    measured: list[SplitFigures] = []
    absent: dict[Split, str] = {}
    cards: dict[Split, tuple[Completion, ...]] = {}
    views: list[SampleView] = []
    for split in options.splits or SPLITS:
        try:
            samples = _samples(data, split)
        except UserError as fault:
            # A recipe may do without held-out data, not without what was asked for.
            if split == "train" or options.splits:
                raise
            absent[split] = str(fault)
            continue
        limit = len(samples) if options.samples is None else options.samples
        indices = spread_evenly(len(samples), limit)
        alone, compared = data.serves_prompts, data.batch_form in ("pairs", "groups")
        tracked = _tracked(indices, split)
        figures = measure_split(samples, split, encoder, tracked, prompts_alone=alone, compared=compared)
        measured.append(figures)
        cards[split] = tuple(_card(samples[index], compared) for index in _chosen(figures, CARDS))
        for index in _chosen(figures, options.shown):
            sample = samples[index]
            for name, row in compared_rows(sample) if compared else [("", sample)]:
                runs = token_runs(encode_row(encoder, row, split, prompt_alone=alone), encoder)
                views.append(SampleView(split, index, sample, tuple(runs), name))
    return DataReport(
        recipe=recipe,
        data=type(data).__name__,
        checkpoint=model.backbone.checkpoint,
        max_tokens=encoder.max_tokens,
        policy=policy,
        splits=tuple(measured),
        absent=absent,
        overlaps=overlaps(measured),
        shared_images=shared_images(measured),
        cards=cards,
        views=tuple(views),
    )


def _samples(data: VLMDataModule, split: Split) -> PreparedSamples:
    """The samples of a split as the loaders read them, the system prompt before them."""
    data.setup(STAGES[split])
    samples = data.prepared(split)
    if not len(samples):
        raise UserError(f"the {split} split has no samples; check data")
    return samples


def _write_files(report: DataReport, folder: Path) -> None:
    for figures in report.splits:
        cards = report.cards[figures.split]
        title = f"{report.recipe}: {len(cards)} of {figures.total:,} samples of {figures.split}"
        draw_contact_sheet(cards, title=title).save(folder / f"{figures.split}_samples.png")
    (folder / "data_report.html").write_text(html_page(report), encoding="utf-8")
    (folder / "data.json").write_text(_json(report.to_json(), indent=2) + "\n", encoding="utf-8")
    lines = [_json(asdict(row)) + "\n" for figures in report.splits for row in figures.bad]
    (folder / "bad_samples.jsonl").write_text("".join(lines), encoding="utf-8")


def _card(sample: Sample, compared: bool) -> Completion:
    """A sample with its own completion, or with all that are compared."""
    card = reference(sample)
    return replace(card, text=compared_text(sample) or card.text) if compared else card


def _chosen(figures: SplitFigures, count: int) -> list[int]:
    return [figures.usable[position] for position in spread_evenly(len(figures.usable), count)]


def _json(value: Any, **options: Any) -> str:
    # Escaped, so that halves of surrogate pairs in the data can be written too.
    return json.dumps(value, ensure_ascii=True, **options)


def _tracked(indices: Sequence[int], split: Split) -> Iterable[int]:
    console = Console(stderr=True)
    return track(indices, f"reading {split}", console=console, transient=True, disable=not sys.stderr.isatty())


def _whole_number(option: str, given: str, least: int, otherwise: str = "") -> int:
    if not given.isdecimal() or int(given) < least:
        raise UserError(f"--{option}: {given!r} does not fit; give a whole number of at least {least}{otherwise}")
    return int(given)
