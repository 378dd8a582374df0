"""Names of weights on disk and in memory: transformers 5 renames them as it loads and as it saves.

See ``transformers.core_model_loading``; the renaming itself is left to transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

from lit_vlm.interfaces.errors import UserError


def memory_names(model: Any, on_disk: Iterable[str] | None = None) -> dict[str, str]:
    """Finds the name in memory of every weight of a checkpoint.

    Weights that are tied appear once, under the first of their names. Numbers are not read: the model may lie on the
    device ``meta``.

    Args:
        model: A Hugging Face model without an adapter.
        on_disk: Names in the files of a checkpoint, which an older transformers may have written; those that the model
            lacks are left out. By default the names that ``save_pretrained`` writes.

    Returns:
        Name on disk -> name in memory.

    Raises:
        UserError: Weights are not only renamed but also cut up, stacked or turned.
    """
    weights = _saved_weights(model)
    return _written(model, weights) if on_disk is None else _loaded(model, weights, on_disk)


def write_as_loaded(model: Any, on_disk: Iterable[str] | None) -> None:
    """Has a model that was only built written under the names that one loaded from a checkpoint is written under.

    Args:
        model: A Hugging Face model without an adapter; changed in place.
        on_disk: Names in the files of the checkpoint; None names weights as those of a new model.
    """
    if on_disk is None:
        new = get_model_conversion_mapping(model, add_legacy=False)
        model._weight_conversions = [entry for entry in new if not isinstance(entry, PrefixChange)]
        return
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    wanted = dict.fromkeys(model.state_dict(), True)
    for disk in on_disk:
        rename_source_key(disk, renamings, converters, model.base_model_prefix, wanted)  # notes which of them match
    model._weight_conversions = [entry for entry in conversions if entry.was_used()]


def disk_groups(model: Any) -> list[dict[str, Tensor]]:
    """Divides the weights that ``save_pretrained`` writes into those that may be cut up or stacked together.

    Args:
        model: A Hugging Face model after ``write_as_loaded``.

    Returns:
        Groups of name in memory -> weight: one each, and those of a layer together where some are not only renamed.
    """
    ignored = set(model._keys_to_ignore_on_save or ())
    together = any(isinstance(entry, WeightConverter) for entry in model._weight_conversions)
    groups: dict[str, dict[str, Tensor]] = {}
    for name, weight in _saved_weights(model).items():
        if name not in ignored:
            layer = re.match(r".*?\.\d+\.", name) if together else None
            groups.setdefault(layer[0] if layer else name, {})[name] = weight
    return list(groups.values())


def written_weights(model: Any, group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames, cuts up or stacks one of the groups of ``disk_groups``, as ``save_pretrained`` does.

    Args:
        model: The model.
        group: Name in memory -> numbers, which may lie on the device ``meta``.

    Returns:
        Name on disk -> numbers.
    """
    written: dict[str, Tensor] = revert_weight_conversion(model, dict(group))
    return written


def _saved_weights(model: Any) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # Without buffers that are made anew, and what quantised layers keep beside their weights.
    return {name: tensors[name] for name in model.state_dict() if name in tensors}


def _written(model: Any, weights: Mapping[str, Tensor]) -> dict[str, str]:
    marks = {name: torch.empty(weight.shape, device="meta") for name, weight in weights.items()}
    mark_names = {id(mark): name for name, mark in marks.items()}
    # A mark that is cut up or stacked comes back as another tensor.
    found = {disk: mark_names.get(id(mark)) for disk, mark in revert_weight_conversion(model, dict(marks)).items()}
    lost = marks.keys() - set(found.values())
    if lost:
        raise _more_than_renamed(model, min(lost))
    return {disk: name for disk, name in found.items() if name is not None}


def _loaded(model: Any, weights: Mapping[str, Tensor], on_disk: Iterable[str]) -> dict[str, str]:
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    wanted = dict.fromkeys(weights, True)
    found: dict[str, str] = {}
    for disk in on_disk:
        name, converter = rename_source_key(disk, renamings, converters, model.base_model_prefix, wanted)
        if name not in wanted and disk in wanted:
            name, converter = disk, None
        if name not in wanted:
            continue
        if converter is not None:
            raise _more_than_renamed(model, name)
        found[disk] = name
    return found


def _more_than_renamed(model: Any, name: str) -> UserError:
    return UserError(
        f"{type(model).__name__} does not store the weight {name!r} as one tensor of its own: transformers stacks or "
        "turns it when it loads; names alone do not tell which numbers on disk it stands for, so this model cannot be "
        "used here"
    )
