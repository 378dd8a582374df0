"""A pipeline as its recipe describes it: stages that run one after the other, over one or more rounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from lit_vlm.command_line.catalogue import find_config
from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.command_line.found_configs import STAGES
from lit_vlm.interfaces.errors import UserError

StageVerb = Literal["fit", "validate", "test", "predict", "merge"]
Start = Literal["base", "current"]
KEYS = ("about", "base", "rounds", "common", "figures", STAGES)
STAGE_KEYS = ("name", "verb", "config", "init_from", "rounds", "options")
ROUNDS = ("first", "later", "last")
RESERVED = ("base", "current", "previous", "round", "rounds", "common", "figures")
NAME = re.compile(r"[a-z][a-z0-9_]*")
FIGURES = ("exact_match", "strict_match")


@dataclass(frozen=True)
class Stage:
    """One stage: an ordinary command."""

    name: str
    verb: StageVerb
    configs: tuple[Path, ...]
    """Recipes, later ones win."""
    init_from: Start | None = None
    """Which model it loads: the pipeline's ``base``, or the last one that a stage made; None for the recipe's own."""
    rounds: tuple[int, ...] = ()
    """Rounds that it runs in, from 1."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Dotted options of the command, with hand-overs in braces."""


@dataclass(frozen=True)
class Pipeline:
    """Stages and how often they run."""

    name: str
    stages: tuple[Stage, ...]
    base: str | None = None
    """Checkpoint that the first round starts from."""
    rounds: int = 1
    common: Mapping[str, Any] = field(default_factory=dict)
    """Options of all stages that run a Trainer."""
    figures: tuple[str, ...] = FIGURES
    """Figures of the last table, without the split's name."""
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """Writes the pipeline as a recipe, with all changes, and its recipes' files as they are seen from here."""
        stages = []
        for stage in self.stages:
            told = {"name": stage.name, "verb": stage.verb, "config": [str(config) for config in stage.configs]}
            start = {} if stage.init_from is None else {"init_from": stage.init_from}
            if stage.rounds:
                stages.append({**told, **start, "rounds": [*stage.rounds], "options": dict(stage.options)})
        content = {
            "about": dict(self.about),
            "base": self.base,
            "rounds": self.rounds,
            "figures": [*self.figures],
            "common": dict(self.common),
            STAGES: stages,
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def read_pipeline(path: Path, content: Mapping[str, Any], settings: Sequence[str] = ()) -> Pipeline:
    """Reads a recipe's content.

    Args:
        path: Its file; recipes of stages may be given relative to its folder.
        content: What it holds.
        settings: Changes as ``stage.option=value``, ``common.option=value``, ``base=value`` or ``rounds=value``.

    Raises:
        UserError: Something is missing, unknown or of the wrong kind; the message names file, stage and key.
    """
    _check_keys(f"{path}", content, KEYS)
    given = content.get(STAGES)
    if not isinstance(given, list) or not given:
        raise UserError(f"{path}: stages is {given!r:.40}; give a list of one stage or more")
    entries = [_stage_entry(path, number, entry) for number, entry in enumerate(given, 1)]
    names = [entry["name"] for entry in entries]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{path}: two stages are called {repeated[0]!r}; give each a name of its own")
    changed = _changed(dict(content), {entry["name"]: entry for entry in entries}, settings)
    rounds = changed.get("rounds", 1)
    if type(rounds) is not int or rounds < 1:
        raise UserError(f"{path}: rounds is {rounds!r}; give a whole number, at least 1")
    base = changed.get("base")
    if base is not None and (not isinstance(base, str) or not base):
        raise UserError(f"{path}: base is {base!r}; give a checkpoint's hub id or folder")
    figures = changed.get("figures", list(FIGURES))
    if not isinstance(figures, list) or not figures or not all(isinstance(name, str) for name in figures):
        raise UserError(f"{path}: figures is {figures!r:.40}; give a list of names, such as exact_match")
    return Pipeline(
        name=path.stem,
        stages=tuple(_stage(path, entry, rounds) for entry in entries),
        base=base,
        rounds=rounds,
        common=_options(f"{path}: common", changed.get("common")),
        figures=tuple(figures),
        about=dict(content.get("about") or {}),
    )


def _stage_entry(path: Path, number: int, entry: Any) -> dict[str, Any]:
    """Checks a stage's name, by which messages and settings call it."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{path}: stage {number} has the name {name!r}; give one of small letters, digits and _, such as generate"
        )
    if name in RESERVED:
        raise UserError(f"{path}: stage {number} is called {name!r}, which means something else; give another name")
    return {**entry, "options": _options(f"{path}: stage {name}: options", entry.get("options"))}


def _stage(path: Path, entry: Mapping[str, Any], rounds: int) -> Stage:
    place = f"{path}: stage {entry['name']}"
    _check_keys(place, entry, STAGE_KEYS)
    verb = entry.get("verb")
    if verb not in get_args(StageVerb):
        raise UserError(
            f"{place}: verb is {verb!r}{did_you_mean(str(verb), get_args(StageVerb))}; give one of "
            f"{', '.join(get_args(StageVerb))}"
        )
    start = entry.get("init_from")
    if start is not None and (start not in get_args(Start) or verb == "merge"):
        mend = "name its models in options" if verb == "merge" else "give base or current"
        raise UserError(f"{place}: init_from is {start!r}; {mend}")
    configs = entry.get("config")
    wanted = [configs] if isinstance(configs, str) else configs
    if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise UserError(f"{place}: config is {configs!r:.40}; give a recipe, or a list of recipes")
    return Stage(
        name=entry["name"],
        verb=cast(StageVerb, verb),
        configs=tuple(_config(path, place, name) for name in wanted),
        init_from=cast(Start | None, start),
        rounds=_rounds(place, entry.get("rounds"), rounds),
        options=entry["options"],
    )


def _config(path: Path, place: str, name: str) -> Path:
    beside = path.parent / name
    if beside.is_file():
        return beside
    try:
        return find_config(name)
    except UserError as mistake:
        raise UserError(f"{place}: {str(mistake).removeprefix('--')}") from mistake


def _rounds(place: str, given: Any, rounds: int) -> tuple[int, ...]:
    every = tuple(range(1, rounds + 1))
    if given is None:
        return every
    if given in ROUNDS:
        return {"first": every[:1], "later": every[1:], "last": every[-1:]}[given]
    if isinstance(given, list) and given and all(type(number) is int and number >= 1 for number in given):
        return tuple(number for number in every if number in given)
    raise UserError(f"{place}: rounds is {given!r}; give {', '.join(ROUNDS)}, or a list of rounds from 1 on")


def _options(place: str, given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(name, str) and name for name in given):
        raise UserError(f"{place} is {given!r:.40}; give options with their values, such as data.batch_size: 8")
    return {name.removeprefix("--"): value for name, value in given.items()}


def _changed(
    content: dict[str, Any], stages: Mapping[str, dict[str, Any]], settings: Sequence[str]
) -> Mapping[str, Any]:
    """Applies changes to the pipeline's own values and, in place, to the options of its stages."""
    for setting in settings:
        name, equals, text = setting.partition("=")
        first, _, option = name.partition(".")
        if not equals or not first:
            raise UserError(f"--set {setting}: give stage.option=value, such as sft.data.batch_size=8")
        value = _value(setting, text)
        if name in ("base", "rounds", "figures"):
            content[name] = value
        elif first == "common" and option:
            content["common"] = {**_options("common", content.get("common")), option: value}
        elif first in stages and option:
            stages[first]["options"][option] = value
        else:
            known = [*stages, "common", "base", "rounds", "figures"]
            raise UserError(
                f"--set {setting}: there is no stage {first!r}{did_you_mean(first, known)}; "
                f"give stage.option=value, where the stage is one of {', '.join(stages)} or common; or base, rounds "
                "or figures"
            )
    return content


def _value(setting: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {setting}: {text!r} is not valid YAML; put it in quotes") from None


def _check_keys(place: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise UserError(
                f"{place}: there is no {key!r}{did_you_mean(str(key), known)}; there are {', '.join(known)}"
            )
