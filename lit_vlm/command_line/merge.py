"""The verb ``merge``: writes the model that a recipe's merge describes, without a Trainer."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentError
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from rich.console import Console
from rich.progress import Progress

from lit_vlm.command_line.catalogue import read_yaml
from lit_vlm.command_line.found_configs import with_found_configs
from lit_vlm.command_line.null_values import deepen_nulls
from lit_vlm.command_line.parse_errors import explain
from lit_vlm.command_line.short_names import import_named_classes
from lit_vlm.functional.shard_writer import check_output
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.merge_adapter import AdapterSummary, write_adapter
from lit_vlm.merging.merge_output import MergeSummary, write_merge
from lit_vlm.merging.merge_plan import MergePlan, plan_merge
from lit_vlm.merging.merge_settings import MergeSettings
from lit_vlm.merging.merge_vector import VectorSummary, write_merged_vector
from lit_vlm.merging.weight_figures import WeightFigures
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from lit_vlm.models.linear_names import linear_names

DESCRIPTION = "Computes a model from the weights of others, and writes it as a folder that from_pretrained loads."
SECTIONS: Mapping[str, type | None] = {
    **dict.fromkeys(("config", "about", "output", "as_lora", "lora_everywhere", "approximate", "as_vector", "dry_run")),
    "print_config": None,
    "merge": MergeSettings,
}


@dataclass(frozen=True)
class MergeOptions:
    """What the verb was asked for."""

    settings: MergeSettings
    output: Path | None
    """None where nothing is to be written."""
    as_lora: int | None
    lora_everywhere: bool
    approximate: bool
    as_vector: bool
    recipe: str
    """The resolved recipe, YAML."""


def run(verb: str, arguments: list[str]) -> int:
    """Plans a merge, tells what it does, and writes it.

    Raises:
        UserError: The command line, the recipe, or what they ask for is wrong.
    """
    options = parse_options(arguments)
    plan = plan_merge(options.settings, open_checkpoint)
    for warning in plan.warnings:
        print(f"lit-vlm: warning: {' '.join(warning.split())}", file=sys.stderr)
    print("\n".join(describe(plan)))
    if options.output is None:
        return 0
    try:
        summary = write(plan, options, options.output)
    except OSError as fault:
        raise UserError(
            f"--output: {str(options.output)!r} cannot be written: {fault}; make room there, or name another folder"
        ) from fault
    print("\n".join(conclude(summary)))
    return 0


def parse_options(arguments: Sequence[str]) -> MergeOptions:
    """Reads a command line, and builds what it and its recipes name.

    Raises:
        UserError: An option is wrong or missing, or the settings do not fit.
    """
    # A user's own operations lie beside the recipe.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    words, configs = with_found_configs("merge", arguments)
    import_named_classes(words, [read_yaml(path) for path in configs])
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _parser()
    try:
        given = parser.parse_args(deepen_nulls(words))
        settings: MergeSettings = parser.instantiate(given).merge
    except UserError:
        raise
    except ArgumentError as mistake:
        raise UserError(explain(mistake, SECTIONS)) from mistake
    except ValueError as mistake:
        # What a constructor refuses arrives wrapped by the parser.
        if "Does not validate against" in str(mistake):
            raise UserError(explain(mistake, SECTIONS)) from mistake
        raise
    recipe = parser.dump(Namespace(about=given.about, merge=given.merge), skip_validation=True)
    return MergeOptions(
        settings=settings,
        output=_output(given),
        as_lora=given.as_lora,
        lora_everywhere=given.lora_everywhere,
        approximate=given.approximate,
        as_vector=given.as_vector,
        recipe=recipe,
    )


def describe(plan: MergePlan) -> list[str]:
    """Tells what a plan does: its sources, what is merged, and what is kept for which reason."""
    lines = [f"{role}: {source.label}" for role, source in plan.sources.items()]
    lines.append(f"operation: {plan.settings.operation}")
    counts = Counter((planned.merged, planned.place.group, planned.reason) for planned in plan.outputs)
    for (merged, group, reason), count in sorted(counts.items(), key=lambda item: not item[0][0]):
        noun = "weight" if count == 1 else "weights"
        what = f"{'merged' if merged else 'kept':<7}{group:<11}{count:>6,} {noun}"
        lines.append(f"{what}: {reason}" if reason else what)
    return lines


def write(plan: MergePlan, options: MergeOptions, output: Path) -> MergeSummary | AdapterSummary | VectorSummary:
    """Writes what was asked for, with a progress line.

    Raises:
        UserError: The folder holds something, or the weights cannot be merged.
    """
    with _progress(plan, everything=options.as_lora is None and not options.as_vector) as advance:
        if options.as_vector:
            return write_merged_vector(plan, output, options.recipe, advance)
        if options.as_lora is None:
            return write_merge(plan, output, options.recipe, advance)
        return write_adapter(
            plan,
            output,
            options.as_lora,
            options.recipe,
            linear_names(plan.target.folder, plan.target.names),
            everywhere=options.lora_everywhere,
            approximate=options.approximate,
            advance=advance,
        )


def conclude(summary: MergeSummary | AdapterSummary | VectorSummary) -> list[str]:
    """Tells what was written, how fast, and what may come next."""
    told = f"{summary.outcome}; {summary.seconds:.1f} s"
    folder = shlex.quote(str(summary.output))
    use = f"lit-vlm test --config quickstart --model.backbone.checkpoint {folder}"
    if isinstance(summary, MergeSummary):
        rate = (summary.bytes_read + summary.bytes_written) / 1e9 / max(summary.seconds, 1e-9)
        told += f", {rate:.2f} GB/s read and written"
        if summary.taken_over:
            told += f"; {summary.taken_over} weights were there from a merge that was stopped"
    elif isinstance(summary, AdapterSummary):
        use = f"peft.PeftModel.from_pretrained(model, {str(summary.output)!r})"
    else:
        use = f"lit-vlm merge --config merging/saved_vector --merge.donors '[{{vector: {folder}}}]' --output FOLDER"
    return [told, f"wrote {summary.output}", f"next: {use}"]


@contextmanager
def _progress(plan: MergePlan, everything: bool) -> Iterator[Callable[[WeightFigures], None]]:
    """Shows on a terminal how many weights are done."""
    total = sum(planned.merged or everything for planned in plan.outputs)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("merging", total=total)
        yield lambda figures: progress.advance(task)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="lit-vlm merge", description=DESCRIPTION, exit_on_error=False, parser_mode="omegaconf")
    parser.add_argument("--config", "-c", action="config", help="A shipped recipe or a YAML file; several merge.")
    parser.add_argument("--about", type=dict, default={}, help="What a recipe says of itself.")
    parser.add_argument("--output", type=str, help="Folder that is written; absent or empty.")
    parser.add_argument("--as_lora", type=int, help="Rank of a PEFT adapter that is written in the model's place.")
    parser.add_argument("--lora_everywhere", action="store_true", help="Adapts vision side and projector too.")
    parser.add_argument("--approximate", action="store_true", help="Finds the adapter by a faster, inexact method.")
    parser.add_argument("--as_vector", action="store_true", help="Writes the difference to the target, for reuse.")
    parser.add_argument("--dry_run", action="store_true", help="Shows what would be merged, and writes nothing.")
    parser.add_class_arguments(MergeSettings, "merge")
    return parser


def _output(given: Namespace) -> Path | None:
    if given.as_lora is not None and given.as_vector:
        raise UserError("--as_lora and --as_vector: give just one of the two")
    if given.as_lora is not None and given.as_lora < 1:
        raise UserError(f"--as_lora: {given.as_lora} does not fit; give the rank of the adapter, at least 1")
    if given.as_lora is None and (given.lora_everywhere or given.approximate):
        raise UserError("--lora_everywhere and --approximate go with --as_lora; give its rank, such as --as_lora 64")
    if given.dry_run:
        return None
    if given.output is None:
        raise UserError("--output is missing; name the folder to write, or give --dry_run to see the plan")
    output = Path(given.output).expanduser()
    check_output(output)  # before anything is fetched
    return output
