"""Hands the weights of a model to programs that sample with a copy of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import WeightBucket
from lit_vlm.models.adapters import NAME, OPTION, adapted_layers, adapter_state, has_adapter
from lit_vlm.models.disk_names import memory_names
from lit_vlm.models.parts import part_of
from lit_vlm.models.sharding import whole
from lit_vlm.models.tuning import PartModules

ELSEWHERE = "or choose HFRolloutEngine, which samples with the policy itself"


def shared_adapter_rank(model: Any, parts: PartModules) -> int | None:
    """Tells what is handed over: an adapter of this rank, or, where None, all weights.

    Raises:
        UserError: The adapter is of a kind that other programs do not take, or the strategy hides the weights.
    """
    refuse_hidden(model)
    if not has_adapter(model):
        return None
    configuration = model.peft_config[NAME]
    if configuration.use_dora:
        raise UserError(f"{OPTION}.kind is dora, which vLLM does not take; give lora or rslora, {ELSEWHERE}")
    if configuration.modules_to_save:
        raise UserError(
            f"{OPTION}.train_in_full trains weights beside the adapter, which vLLM does not take; leave it out, "
            f"{ELSEWHERE}"
        )
    others = [name for name in adapted_layers(model) if part_of(name, parts) != "language"]
    if others:
        raise UserError(
            f"{OPTION} adapts {len(others)} layers outside the language part, such as {others[0]}, which vLLM would "
            f"pass by; give {OPTION}.parts [language], {ELSEWHERE}"
        )
    return int(configuration.r)


def weight_buckets(model: Any, dtype: torch.dtype, most_bytes: int, *, keep: bool) -> Iterator[WeightBucket]:
    """Yields the weights, or an adapter in one piece; every rank goes through all of them.

    Args:
        model: As the strategy left it, perhaps with an adapter.
        dtype: Type that the other side computes in; an adapter keeps its own.
        most_bytes: Size of a bucket, but for a single weight that is larger.
        keep: Whether this rank wants them; the others help to put them together, and get nothing.
    """
    if has_adapter(model):
        state = {name: whole(value.detach()) for name, value in adapter_state(model).items()}
        if keep:
            yield WeightBucket(state, {"format": "pt", "adapter_config": adapter_configuration(model)})
        return
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    waiting: dict[str, Tensor] = {}
    size = 0
    for disk, name in memory_names(model).items():
        weight = whole(tensors[name].detach())
        if not keep:
            continue
        weight = weight.to(dtype) if weight.is_floating_point() else weight
        if waiting and size + weight.nbytes > most_bytes:
            yield WeightBucket(waiting, {"format": "pt"})
            waiting, size = {}, 0
        waiting[disk] = weight
        size += weight.nbytes
    if waiting:
        yield WeightBucket(waiting, {"format": "pt"})


def adapter_configuration(model: Any) -> str:
    """Writes the configuration of the adapter as PEFT does, as JSON."""
    settings = model.peft_config[NAME].to_dict() | {"inference_mode": True}
    return json.dumps(settings, default=lambda value: sorted(value) if isinstance(value, set) else str(value))


def refuse_hidden(model: nn.Module) -> None:
    """Refuses strategies whose pieces of weights have no way to the whole.

    Raises:
        UserError: As said.
    """
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        hidden = "fsdp"
    elif any(hasattr(value, "ds_id") for value in model.parameters()):
        hidden = "deepspeed"
    else:
        return
    raise UserError(
        f"trainer.strategy {hidden} cuts the weights up in a way that VLLMRolloutEngine cannot hand on; give "
        f"trainer.strategy ddp or ModelParallelStrategy, {ELSEWHERE}"
    )
