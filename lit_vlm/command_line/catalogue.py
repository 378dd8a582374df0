"""The recipes that ship with the package: finding, naming and describing them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.interfaces.errors import UserError

RECIPES_FOLDER = Path(__file__).parent.parent / "recipes"
REQUIRED = ("method", "paper", "fidelity")


@dataclass(frozen=True)
class Recipe:
    """One entry of the catalogue."""

    name: str
    """Path below the recipes folder, without suffix, as given to ``--config``."""
    path: Path
    about: dict[str, str]
    """What the recipe says of itself: method, paper, fidelity, summary."""
    verb: str
    """What runs it: ``fit``, ``merge`` or ``pipeline``."""
    paradigm: str
    """Class of the model section; of a merge its operation, of a pipeline the verbs of its stages."""
    data: str
    """Class of the data section; a merge has ``weights``, a pipeline ``stages``."""


def shipped_recipes() -> list[Recipe]:
    """Lists the recipes, sorted by name; leaves without ``about`` are parts of others and not listed.

    Raises:
        UserError: The recipes folder is missing, or a recipe cannot be read.
    """
    # The folder is a symbolic link in a checkout, which rglob would not enter by itself.
    folder = RECIPES_FOLDER.resolve()
    if not folder.is_dir():
        raise UserError("the recipes folder is missing from this installation; install lit-vlm again")
    recipes = []
    for path in folder.rglob("*.yaml"):
        content = read_yaml(path)
        if "about" in content:
            name = path.relative_to(folder).with_suffix("").as_posix()
            recipes.append(_recipe(name, path, content))
    return sorted(recipes, key=lambda recipe: recipe.name)


def find_config(given: str) -> Path:
    """Finds the file that ``--config`` names: a file, or a shipped recipe with or without folder and suffix.

    Raises:
        UserError: There is neither.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path
    wanted = given.removesuffix(".yaml").removesuffix(".yml").removeprefix("recipes/")
    recipes = shipped_recipes()
    exact = [recipe for recipe in recipes if recipe.name == wanted]
    matches = exact or [recipe for recipe in recipes if recipe.name.rsplit("/", 1)[-1] == wanted]
    if len(matches) == 1:
        return matches[0].path
    if matches:
        raise UserError(f"--config {given}: several recipes have this name: {', '.join(r.name for r in matches)}")
    hint = did_you_mean(wanted, [recipe.name for recipe in recipes])
    raise UserError(f"--config {given}: there is no such file or recipe{hint}; 'lit-vlm recipes' lists the recipes")


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a configuration file.

    Raises:
        UserError: It is no YAML mapping; the message names file, line and column.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: this is not valid YAML: {fault.problem}; mend it there") from fault
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise UserError(f"{path}: this is not valid YAML: {fault}") from fault
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: a configuration is a mapping with model, data and trainer, with merge, or with stages; "
            f"this is {content!r:.60}"
        )
    return content


def _recipe(name: str, path: Path, content: dict[str, Any]) -> Recipe:
    merge = content.get("merge")
    if isinstance(merge, dict):
        return Recipe(name, path, content["about"], "merge", _class_name(merge, "operation"), "weights")
    stages = content.get("stages")
    if isinstance(stages, list):
        verbs = ", ".join(str(stage.get("verb")) for stage in stages if isinstance(stage, dict))
        return Recipe(name, path, content["about"], "pipeline", verbs, "stages")
    return Recipe(name, path, content["about"], "fit", _class_name(content, "model"), _class_name(content, "data"))


def _class_name(content: dict[str, Any], section: str) -> str:
    part = content.get(section)
    path = part.get("class_path", "") if isinstance(part, dict) else part or ""
    return str(path).rsplit(".", 1)[-1]
