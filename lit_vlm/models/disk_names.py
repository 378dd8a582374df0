"""Names of weights on disk and in memory: transformers 5 renames them as it loads and as it saves.

See ``transformers.core_model_loading``; the renaming itself is left to transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
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
