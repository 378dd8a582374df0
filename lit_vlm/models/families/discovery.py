"""Finds the rules of a family by its model type, among the files of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from lit_vlm.models import families
from lit_vlm.models.families.family import Family


@cache
def known_families() -> dict[str, Family]:
    """Returns the families that have a file, by each of their model types.

    Raises:
        ValueError: Two files claim the same model type.
    """
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(families.__path__):
        content = vars(importlib.import_module(f"{families.__name__}.{module.name}"))
        for family in content.values():
            imported = getattr(family, "__module__", None) != content["__name__"]
            if imported or not (isinstance(family, type) and issubclass(family, Family)):
                continue
            for model_type in family.model_types:
                if model_type in found:
                    raise ValueError(f"two files in lit_vlm/models/families claim the model type {model_type!r}")
                found[model_type] = family()
    return found


def family_of(processor: Any) -> Family:
    """Returns the rules for a processor, told by the model type it is written for; general ones where none fit."""
    for kind in type(processor).__mro__:
        # transformers keeps each processor in the folder of its model type.
        model_type = kind.__module__.rpartition(".")[0].rpartition(".")[2]
        if model_type in known_families():
            return known_families()[model_type]
    return Family()
