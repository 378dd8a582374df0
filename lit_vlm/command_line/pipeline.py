"""The verb ``pipeline``: runs the stages that a recipe lists, over one or more rounds.

Each stage is an ordinary ``lit-vlm`` command in a process of its own, so that its memory is free when it ends. All are
checked before the first one starts; those that are done are not repeated when a pipeline is started again in its
folder.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import NoReturn

import yaml

from lit_vlm.command_line.catalogue import read_yaml
from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.command_line.found_configs import with_found_configs
from lit_vlm.command_line.pipeline_figures import figures_table, write_figures
from lit_vlm.command_line.pipeline_file import read_pipeline
from lit_vlm.command_line.pipeline_plan import StageRun, plan_pipeline
from lit_vlm.command_line.pipeline_runs import (
    command_of,
    first_changed,
    launcher,
    locked,
    read_marker,
    run_stage,
    set_aside,
    settings_hashes,
)
from lit_vlm.interfaces.errors import UserError

RUNS = "runs"
PIPELINE_FILE = "pipeline.yaml"
INTERRUPTED = 130


def run(verb: str, arguments: list[str]) -> int:
    """Runs a pipeline, or what of it is not done.

    Raises:
        UserError: The command line, the recipe or a stage's options are wrong, or a stage fails.
    """
    options = _parser().parse_args(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a pipeline is started once, not by every rank; its stages start their own (trainer.devices)")
    words, configs = with_found_configs(verb, ["--config", options.config])
    path = configs[0]
    pipeline = read_pipeline(path, read_yaml(path), options.set)
    folder = Path(options.output).expanduser() if options.output else _next_version(Path(RUNS) / pipeline.name)
    plan = plan_pipeline(pipeline, folder)
    chosen = _chosen(plan, options.only)
    resolved = resolve_stages(plan)
    check_hand_overs(plan, resolved)
    hashes = settings_hashes(plan, resolved, folder)
    changed = first_changed(plan, hashes, folder)
    if changed is not None and not options.rerun:
        where, difference = changed
        raise UserError(
            f"stage {where.label} in {str(folder)!r} was done with other settings: {difference}; give --rerun to set "
            "it and all after it aside and run them again, or another --output"
        )
    if options.dry_run:
        print("\n".join(_told(plan, chosen)))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    repeated = plan[plan.index(changed[0]) :] if changed is not None else []
    again = shlex.join(["lit-vlm", "pipeline", "--config", str(path), "--output", str(folder)])
    again += "".join(f" --set {shlex.quote(setting)}" for setting in options.set)
    with locked(folder) as lock, _told_how_to_go_on(again):
        for stale in repeated:
            if stale.folder.exists():
                print(f"{stale.folder} is set aside as {set_aside(stale.folder).name}")
        (folder / PIPELINE_FILE).write_text(pipeline.to_yaml(), encoding="utf-8")
        for place, stage_run in enumerate(chosen, 1):
            _check_given(stage_run, plan)
            if read_marker(stage_run) is not None:
                print(f"{stage_run.label}: done before")
                continue
            told = f"{stage_run.label}: lit-vlm {stage_run.stage.verb}, in {stage_run.folder}"
            print(f"[{place}/{len(chosen)}] {told}", flush=True)
            run_stage(stage_run, hashes[stage_run.label], folder, launcher(lock))
        print(figures_table(plan, pipeline.figures))
        print(f"figures: {write_figures(plan, folder)}")
    return 0


def resolve_stages(plan: Sequence[StageRun]) -> dict[str, str]:
    """Parses the command of each stage as its verb does, without building anything.

    Returns:
        By name of the stage: its first run's configuration with all defaults, YAML, without the run's own place.

    Raises:
        UserError: A stage has an option or a value that its recipe does not take.
    """
    resolved: dict[str, str] = {}
    for planned in plan:
        if planned.stage.name in resolved:
            continue
        try:
            text = _resolved(planned)
        except UserError as mistake:
            raise UserError(f"stage {planned.stage.name}: {mistake}") from mistake
        resolved[planned.stage.name] = text.replace(str(planned.folder.parent), ".")
    return resolved


def check_hand_overs(plan: Sequence[StageRun], resolved: dict[str, str]) -> None:
    """Checks that stages whose model later ones load write one that can be loaded.

    Raises:
        UserError: One does not.
    """
    for planned in plan:
        if "model" not in planned.hands_over or planned.stage.verb != "fit":
            continue
        settings = yaml.safe_load(resolved[planned.stage.name])
        callbacks = settings["trainer"].get("callbacks") or []
        if not any(str(callback.get("class_path", "")).endswith("ExportModel") for callback in callbacks):
            raise UserError(
                f"stage {planned.stage.name}: a later stage is given its model, but it exports none; add "
                "lit_vlm.callbacks.export_model.ExportModel to its trainer.callbacks"
            )
        backbone = settings["model"].get("init_args", {}).get("backbone") or {}
        if (backbone.get("adapter") or {}).get("export") == "adapter":
            raise UserError(
                f"stage {planned.stage.name}: a later stage is given its model, but it exports an adapter alone; set "
                "its model.backbone.adapter.export to merged"
            )


def _resolved(planned: StageRun) -> str:
    # Imported where it is needed: Lightning and torch take seconds.
    words = [*planned.words]
    if planned.stage.verb == "merge":
        from lit_vlm.command_line.merge import parse_options

        return parse_options([*words, "--dry_run"]).recipe
    from lit_vlm.command_line.training import CommandLine, parse, prepare

    printed = io.StringIO()
    prepared, name = prepare(planned.stage.verb, [*words, "--print_config"])
    try:
        with redirect_stdout(printed):
            parse(CommandLine, planned.stage.verb, prepared, name)
    except SystemExit as end:
        if end.code:
            raise
    return printed.getvalue()


def _chosen(plan: Sequence[StageRun], only: str | None) -> list[StageRun]:
    if only is None:
        return list(plan)
    chosen = [planned for planned in plan if only in (planned.stage.name, planned.label)]
    if not chosen:
        known = dict.fromkeys([planned.stage.name for planned in plan] + [planned.label for planned in plan])
        raise UserError(
            f"--only {only}: there is no such stage{did_you_mean(only, known)}; give one of {', '.join(known)}"
        )
    return chosen


def _check_given(planned: StageRun, plan: Sequence[StageRun]) -> None:
    by_label = {other.label: other for other in plan}
    for label, _ in planned.needs:
        if read_marker(by_label[label]) is None:
            raise UserError(
                f"stage {planned.label} is given what {label} makes, which has not run here; leave --only out, or give "
                "the --output of a pipeline that has run it"
            )


def _told(plan: Sequence[StageRun], chosen: Sequence[StageRun]) -> Iterator[str]:
    for planned in plan:
        if planned in chosen:
            done = " (done before)" if read_marker(planned) is not None else ""
            yield f"{planned.label}{done}: {command_of(planned)}"


@contextmanager
def _told_how_to_go_on(command: str) -> Iterator[None]:
    """Prints the command that goes on where a stage fails or is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"lit-vlm: interrupted; go on with: {command}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except UserError as mistake:
        raise UserError(f"{mistake}; then go on with: {command}") from mistake


def _next_version(folder: Path) -> Path:
    taken = [
        int(path.name.removeprefix("version_"))
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name.removeprefix("version_").isdecimal()
    ]
    return folder / f"version_{max(taken, default=-1) + 1}"


class _Parser(ArgumentParser):
    """Says what is wrong in the command's one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"pipeline: {message}; 'lit-vlm pipeline --help' lists the options")


def _parser() -> ArgumentParser:
    parser = _Parser(
        "lit-vlm pipeline",
        description="Runs the stages of a recipe, each a command of its own, and hands models and ledgers on.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", "-c", required=True, help="a shipped recipe with stages, or a YAML file")
    parser.add_argument(
        "--output", help=f"folder of its runs; what is done there is not repeated ({RUNS}/NAME/version_N by default)"
    )
    parser.add_argument("--only", metavar="STAGE", help="run this stage alone, in all rounds, or in one as 2-STAGE")
    parser.add_argument("--dry_run", action="store_true", help="check everything, print the commands, run nothing")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.OPTION=VALUE",
        help="change an option of a stage, or of all with 'common', or base, rounds or figures; may be repeated",
    )
    parser.add_argument(
        "--rerun", action="store_true", help="set stages aside whose settings have changed, and run them again"
    )
    return parser
