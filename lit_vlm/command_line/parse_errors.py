"""Turns what jsonargparse says of a mistake into one line: the option, what there is instead, the mend."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.command_line.short_names import closest_class

KEY = re.compile(r'Parser key "([^"]+)":')
CLASS = re.compile(r"given class_path '([^']+)'")
UNKNOWN = (
    re.compile(r"unrecognized arguments: --([\w.]+)"),
    re.compile(r"Group '(?P<group>[^']+)' does not accept option '(?P<option>[^']+)'"),
    re.compile(r"Option '([^']+)' is not accepted"),
    re.compile(r"[Kk]ey '([^']+)' is not expected"),
)
EXPECTED = re.compile(r"Expected a ((?:typing\.)?[^.\n]*(?:\[[^\n]*?\])?[^.\n]*)(?:\. Got value: (?P<got>.*))?$")
BARE_CALLBACK = re.compile(r"^ *- Problem with given class_path 'lightning\.Callback':\n.*\n", re.MULTILINE)
GIVEN = re.compile(r"^\s*Given value: (.*)$", re.MULTILINE)
NESTED = re.compile(r"NestedArg\(key=.*?, val=(.*)\)")  # how the parser writes an option within a class
RUN_SECTIONS: Mapping[str, type | None] = dict.fromkeys(
    ("model", "data", "trainer", "about", "seed_everything", "ckpt_path", "config", "print_config")
)
"""What a run's options begin with."""
MISSING = re.compile(r"the following arguments are required: (\S+)")
TRAINER_CHOICES = ("accelerator", "strategy", "devices", "num_nodes", "precision")
NOISE = re.compile(
    r"NoneType|^\s*(Errors|Subtypes|Given value( type)?):|Does not validate|Parser key|given class_path|^\s*$"
)


def explain(mistake: Exception, sections: Mapping[str, type | None] = RUN_SECTIONS) -> str:
    """Finds the cause in a message of nested alternatives.

    Args:
        mistake: Raised by the parser, or by a constructor it called.
        sections: What the verb's options begin with, with the class that has the options below it.
    """
    # A callback is tried as Lightning's bare class too, which has no options at all.
    text = BARE_CALLBACK.sub("", str(mistake))
    option = ".".join(dict.fromkeys(KEY.findall(text)))
    owner = _owner(text, option)
    for pattern in UNKNOWN:
        if found := pattern.search(text):
            parts = found.groupdict() or {"option": found.group(1)}
            name = ".".join(filter(None, (parts.get("group"), parts["option"])))
            return _unknown_option(name, option, owner, sections)
    if missing := MISSING.search(text):
        name = ".".join(filter(None, (option, missing.group(1).strip(","))))
        return f"--{name} is missing; give it, or a recipe that has it with --config"
    if "import path string" in text or "not accessible or invalid" in text:
        given = re.findall(r"import path string: (\S+)", text) or re.findall(r"a path but (\S+)", text)
        name = given[-1] if given else "?"
        hint = closest_class(name)
        return f"--{option}: there is no class or file {name!r}{hint}; give a class name, a dotted path or a YAML file"
    if cause := _mismatch(text, option):
        return cause
    causes = [line.strip(" -") for line in text.splitlines() if not NOISE.search(line)]
    # A constructor's own words tell more than which types were tried before it.
    causes.sort(key=lambda line: bool(EXPECTED.search(line)))
    return causes[0] if causes else text


def explain_trainer(fault: Exception, settings: Mapping[str, Any]) -> str:
    """Names the option behind what Lightning's Trainer refuses.

    Args:
        fault: Raised by the Trainer's constructor.
        settings: The Trainer's options as given.
    """
    from lightning.pytorch.strategies import StrategyRegistry

    text = " ".join(str(fault).split())
    strategy = settings.get("strategy")
    if "invalid strategy name" in text:
        known = sorted(StrategyRegistry.available_strategies())
        return (
            f"--trainer.strategy: there is no strategy {strategy!r}{did_you_mean(str(strategy), known)}; "
            f"there are {', '.join(known)}"
        )
    if "must have DeepSpeed installed" in text:
        return (
            f"--trainer.strategy: {strategy!r} needs DeepSpeed, which is not installed; run pip install deepspeed, or "
            "give fsdp2, which cuts weights up without it"
        )
    if option := re.search(r"Trainer\((\w+)=", text):
        name = option.group(1)
        return f"--trainer.{name}: {settings.get(name)!r} cannot be used: {text}"
    if "backend found" in text or "accelerator" in text.casefold():
        return (
            f"--trainer.accelerator: {settings.get('accelerator')!r} cannot be used here: {text} "
            "Give 'auto' or 'cpu', or run where such a device is"
        )
    named = [option for option in TRAINER_CHOICES if option in text] or list(TRAINER_CHOICES)
    given = ", ".join(f"--trainer.{option} {settings.get(option)!r}" for option in named)
    return f"{given}: {text}"


def _unknown_option(name: str, option: str, owner: Any, sections: Mapping[str, type | None]) -> str:
    # jsonargparse reports a name below the class with or without the path to it.
    path = name if not option or name.startswith(f"{option}.") else f"{option}.{name}"
    groups, _, last = (name.removeprefix(f"{option}.") if option else name).rpartition(".")
    section, _, inner = path.partition(".")
    if path.startswith("trainer."):
        from lightning import Trainer  # not for verbs without one: its import takes seconds

        known = _parameters(Trainer)
        last = path.removeprefix("trainer.")
    elif owner is not None:
        known = _parameters(owner, groups)
    elif inner and sections.get(section) is not None:
        known = _parameters(sections[section])
        last = inner.partition(".")[0]
    else:
        known = set(sections)
        last = section
    hint = did_you_mean(last, known) or f"; there are {', '.join(sorted(known))}"
    return f"--{path}: there is no such option{hint}"


def _mismatch(text: str, option: str) -> str | None:
    wanted, got = [], None
    for line in text.splitlines():
        found = EXPECTED.search(line)
        if found and "NoneType" not in line:
            wanted.append(_plain(found.group(1)))
            got = found.group("got") or got
    if not wanted or not option:
        return None
    given = GIVEN.findall(text)
    value = got if got is not None else given[-1] if given else "?"
    if nested := NESTED.fullmatch(value):
        value = nested.group(1).strip("'\"")
    return f"--{option}: {value!r} does not fit; give {' or '.join(dict.fromkeys(wanted))}"


def _plain(kind: str) -> str:
    literal = re.search(r"Literal\[(.*)\]", kind)
    if literal:
        return f"one of {literal.group(1)}"
    named = re.search(r"<class '(?:.*\.)?([^'.]+)'>", kind)
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    return names.get(named.group(1), f"a {named.group(1)}") if named else kind.strip()


def _owner(text: str, option: str) -> Any:
    paths = CLASS.findall(text)
    if not paths:
        return None
    module, _, name = paths[-1].rpartition(".")
    return getattr(import_module(module), name, None)


def _parameters(owner: Any, groups: str = "") -> set[str]:
    """Lists the settings of a class, its bases included, or of a group of settings within it."""
    names: dict[str, Any] = {}
    for base in inspect.getmro(owner):
        constructor = vars(base).get("__init__")
        if constructor is None or base is object:
            continue
        hints, parameters = get_type_hints(constructor), inspect.signature(constructor).parameters
        for name, parameter in parameters.items():
            if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                names.setdefault(name, hints.get(name))
        # Only a constructor that hands further options on has those of its base.
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    group, _, rest = groups.partition(".")
    if group and is_dataclass(kind := names.get(group)):
        return {field.name for field in fields(kind)} if not rest else _parameters(kind, rest)
    return set(names)
