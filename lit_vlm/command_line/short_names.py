"""Lets a recipe say ``class_path: SFTModule``: finds classes by name without importing anything.

jsonargparse resolves a bare class name once its module is imported; so the modules of the names that a command line or
recipe uses are imported first, and no other.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_vlm.command_line.closest import did_you_mean
from lit_vlm.interfaces.errors import UserError

PACKAGE = Path(__file__).parent.parent
FOLDERS_WITHOUT_PARTS = {"command_line", "interfaces", "functional", "parsing", "recipes"}
CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")


@lru_cache(maxsize=1)
def class_index() -> dict[str, tuple[str, ...]]:
    """Maps the name of each public class of a part folder to the modules that define one."""
    index: dict[str, list[str]] = {}
    for folder in sorted(path for path in PACKAGE.iterdir() if path.is_dir()):
        if folder.name in FOLDERS_WITHOUT_PARTS or not (folder / "__init__.py").is_file():
            continue
        for file in sorted(folder.resolve().rglob("*.py")):
            module = ".".join(("lit_vlm", folder.name, *file.relative_to(folder.resolve()).with_suffix("").parts))
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    index.setdefault(node.name, []).append(module)
    return {name: tuple(modules) for name, modules in index.items()}


def import_named_classes(arguments: Iterable[str], configurations: Sequence[dict[str, Any]]) -> None:
    """Imports the modules of all short class names that are used.

    Args:
        arguments: Words of the command line.
        configurations: Contents of the recipes.

    Raises:
        UserError: A class path of ours does not exist, or a short name is defined in several modules.
    """
    for configuration in configurations:
        for path in _class_paths(configuration):
            _check_class_path(path)
    words = [word.partition("=")[2] if word.startswith("--") else word for word in arguments]
    texts = {word for configuration in configurations for word in _texts(configuration)}
    for name in filter(CLASS_NAME.fullmatch, [*words, *sorted(texts)]):
        if name in class_index():
            _import_short_name(name)


def closest_class(name: str) -> str:
    """Phrases which of our classes a name may have meant."""
    return did_you_mean(name.rsplit(".", 1)[-1], class_index())


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        for item in value.values():
            yield from _class_paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _class_paths(item)


def _texts(value: Any) -> Iterator[str]:
    """Yields the values that may name a class with all its defaults, as in ``operation: TaskArithmetic``."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "about":
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _check_class_path(path: str) -> None:
    module, _, name = path.rpartition(".")
    if not module:
        if name in class_index():
            _import_short_name(name)
    elif module.startswith("lit_vlm.") and module not in class_index().get(name, ()):
        known = f"; {name} is in {' and '.join(class_index()[name])}" if name in class_index() else closest_class(name)
        raise UserError(f"class_path: there is no class {path}{known}")


def _import_short_name(name: str) -> None:
    modules = class_index()[name]
    if len(modules) > 1:
        candidates = " or ".join(f"{module}.{name}" for module in modules)
        raise UserError(f"class_path: {name} is not unique; write {candidates}")
    importlib.import_module(modules[0])
