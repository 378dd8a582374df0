"""What a pipeline runs, in order: each stage of each round as a command, with what earlier ones hand over filled in.

An option's text may hold, in braces: ``{base}``, the pipeline's base model; ``{current}``, the last model that a stage
made before, the base where none has; ``{round}``, the number of the round; ``{STAGE.model}``, ``{STAGE.ledger}`` and
``{STAGE.folder}`` of an earlier stage of the round, or where that stage has no part in the round, of the last round
that it had; and ``{previous.STAGE.model}`` and so on of an earlier round. In the first round ``{previous.STAGE.model}``
is the base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.command_line.pipeline_file import Pipeline, Stage
from lit_vlm.interfaces.errors import UserError

REFERENCE = re.compile(r"\{([A-Za-z_][\w.]*)\}")
CHECKPOINT = "model.backbone.checkpoint"
MAKES: Mapping[str, tuple[str, ...]] = {
    "fit": ("model", "folder"),
    "merge": ("model", "folder"),
    "predict": ("ledger", "folder"),
    "validate": ("folder",),
    "test": ("folder",),
}
"""What a stage leaves for later ones, by verb; all but the folder itself lie in it under this name."""
FIGURES_FILE = "lit_vlm.callbacks.figures_file.FiguresFile"


@dataclass(frozen=True)
class StageRun:
    """One stage in one round."""

    stage: Stage
    round: int
    folder: Path
    """Where it writes."""
    words: tuple[str, ...]
    """The command line behind the verb."""
    needs: tuple[tuple[str, str], ...] = ()
    """What it is given: labels of earlier runs, each with ``model``, ``ledger`` or ``folder``."""
    hands_over: tuple[str, ...] = ()
    """What of it later runs are given, likewise."""

    @property
    def label(self) -> str:
        """Round and name, such as ``2-sft``: the name of its folder."""
        return f"{self.round}-{self.stage.name}"


def plan_pipeline(pipeline: Pipeline, folder: Path) -> list[StageRun]:
    """Lists all runs in their order.

    Args:
        pipeline: What to run.
        folder: Where the runs' folders will lie.

    Raises:
        UserError: A hand-over names what there is not, or not yet, or a stage has its model from two places.
    """
    plan: list[StageRun] = []
    for number in range(1, pipeline.rounds + 1):
        for stage in pipeline.stages:
            if number in stage.rounds:
                plan.append(_Resolver(pipeline, folder, stage, number, plan).run())
    if not plan:
        raise UserError(f"pipeline {pipeline.name}: no stage takes part in any of the {pipeline.rounds} rounds")
    needed = {need for run in plan for need in run.needs}
    return [
        replace(run, hands_over=tuple(kind for kind in MAKES[run.stage.verb] if (run.label, kind) in needed))
        for run in plan
    ]


class _Resolver:
    """Fills in one stage's hand-overs from the runs before it."""

    def __init__(self, pipeline: Pipeline, folder: Path, stage: Stage, number: int, before: Sequence[StageRun]) -> None:
        self.pipeline = pipeline
        self.folder = folder
        self.stage = stage
        self.number = number
        self.before = before
        self.needs: list[tuple[str, str]] = []

    def run(self) -> StageRun:
        """Builds the command."""
        stage = self.stage
        options = dict(stage.options) if stage.verb == "merge" else {**self.pipeline.common, **stage.options}
        if stage.init_from is not None:
            if CHECKPOINT in options:
                raise self._fault(f"init_from and the option {CHECKPOINT} both name its model; leave one out")
            options = {CHECKPOINT: f"{{{stage.init_from}}}", **options}
        folder = self.folder / f"{self.number}-{stage.name}"
        words = [f"--config={config}" for config in stage.configs]
        words += [f"--{name}={_text(self._filled(value))}" for name, value in options.items()]
        words += own_words(stage.verb, folder)
        return StageRun(stage, self.number, folder, tuple(words), tuple(self.needs))

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        if isinstance(value, str):
            return REFERENCE.sub(lambda found: self._resolve(found.group(1)), value)
        return value

    def _resolve(self, reference: str) -> str:
        names = reference.split(".")
        if reference == "base":
            return self._base(reference)
        if reference == "current":
            models = [run for run in self.before if "model" in MAKES[run.stage.verb]]
            return self._take(models[-1], "model") if models else self._base(reference)
        if reference == "round":
            return str(self.number)
        previous = names[0] == "previous"
        if len(names) != 2 + previous:
            raise self._fault(
                f"{{{reference}}} means nothing here; write {{base}}, {{current}}, {{round}}, {{STAGE.model}}, "
                "{STAGE.ledger}, {STAGE.folder}, or one of the last three with previous. before it"
            )
        return self._of_stage(reference, names[-2], names[-1], previous)

    def _of_stage(self, reference: str, name: str, kind: str, previous: bool) -> str:
        by_name = {stage.name: stage for stage in self.pipeline.stages}
        if name not in by_name:
            hint = did_you_mean(name, by_name) or f"; there are {', '.join(by_name)}"
            raise self._fault(f"{{{reference}}}: there is no stage {name!r}{hint}")
        if kind not in MAKES[by_name[name].verb]:
            made = " and ".join(f"{{{name}.{one}}}" for one in MAKES[by_name[name].verb])
            raise self._fault(f"{{{reference}}}: stage {name} ({by_name[name].verb}) makes no {kind}; it has {made}")
        takes_part = self.number in by_name[name].rounds
        runs = [run for run in self.before if run.stage.name == name]
        if previous:
            runs = [run for run in runs if run.round < self.number]
            if not runs and kind == "model":
                return self._base(reference)
        elif takes_part:
            runs = [run for run in runs if run.round == self.number]
            if not runs:
                raise self._fault(
                    f"{{{reference}}}: stage {name} does not come before it in a round; move it up, or write "
                    f"{{previous.{name}.{kind}}} for what the round before has made"
                )
        if not runs:
            raise self._fault(
                f"{{{reference}}}: in round {self.number} stage {name} has not run yet; say in which rounds this stage "
                "takes part, such as rounds: later"
            )
        return self._take(runs[-1], kind)

    def _base(self, reference: str) -> str:
        if self.pipeline.base is None:
            raise self._fault(f"{{{reference}}} is the base model, which the pipeline does not name; give base")
        return self.pipeline.base

    def _take(self, run: StageRun, kind: str) -> str:
        if (run.label, kind) not in self.needs:
            self.needs.append((run.label, kind))
        return str(run.folder if kind == "folder" else run.folder / kind)

    def _fault(self, problem: str) -> UserError:
        return UserError(f"pipeline {self.pipeline.name}: stage {self.stage.name}: {problem}")


def own_words(verb: str, folder: Path) -> list[str]:
    """Lists the options that let a run write into its folder, in the pipeline's way."""
    if verb == "merge":
        return [f"--output={folder / 'model'}"]
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(folder.parent), "name": "", "version": folder.name},
    }
    return [f"--trainer.logger={json.dumps(logger)}", f"--trainer.callbacks+={FIGURES_FILE}"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
