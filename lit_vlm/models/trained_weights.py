"""Lists the weights of a model that training changes, whatever wraps them: adapters, checkpointing, a strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from peft.tuners.lora import LoraLayer
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import FlatPiece, LowRankFactors, TrainedWeight
from lit_vlm.models.adapters import NAME, OPTION
from lit_vlm.models.support_matrix import StrategyKind

_WRAPPERS = (
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "_orig_mod.",
    f"modules_to_save.{NAME}.",
    "base_layer.",
)
"""Pieces of names that wrappers of modules write into them."""


def trained_weights(
    model: nn.Module, strategy: StrategyKind = "single", root: nn.Module | None = None
) -> list[TrainedWeight]:
    """Lists what trains.

    Args:
        model: A Hugging Face model, perhaps with an adapter, as the strategy left it.
        strategy: How weights lie on devices.
        root: What FSDP has wrapped, ``model`` within it; None for ``model`` itself.

    Returns:
        Weights that train themselves, and layers whose low-rank factors train, in the model's order; names are those
        of the plain model. Magnitudes of DoRA and the like are not listed, as they are no weights of it.

    Raises:
        UserError: Gradients cannot be reached under this strategy, or an adapter is no sum with its weight.
    """
    if strategy.startswith("deepspeed"):
        raise UserError(
            "trainer.strategy deepspeed keeps gradients in buffers of its own, where they cannot be biased; give "
            "trainer.strategy ddp, or fsdp for weights that are cut up"
        )
    pieces = _flat_pieces(model if root is None else root) if strategy == "fsdp1" else {}
    factors = {id(value) for layer in _adapted(model).values() for value in _factors_of(layer)}
    found = [
        TrainedWeight(
            plain_name(name),
            _shape_of(value, pieces.get(id(value))),
            value,
            piece=pieces.get(id(value)),
        )
        for name, value in model.named_parameters()
        if value.requires_grad and id(value) not in factors
    ]
    return [*found, *(_adapted_weight(name, layer, pieces) for name, layer in _adapted(model).items())]


def plain_name(name: str) -> str:
    """Frees a weight's name of what wrappers and adapters write into it.

    Example:
        >>> plain_name("model._fsdp_wrapped_module.layers.0.mlp.up_proj.base_layer.weight")
        'model.layers.0.mlp.up_proj.weight'
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _adapted(model: nn.Module) -> dict[str, LoraLayer]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and NAME in module.lora_A and module.lora_A[NAME].weight.requires_grad
    }


def _factors_of(layer: LoraLayer) -> Iterator[nn.Parameter]:
    yield cast(nn.Parameter, layer.lora_A[NAME].weight)
    yield cast(nn.Parameter, layer.lora_B[NAME].weight)


def _adapted_weight(name: str, layer: LoraLayer, pieces: Mapping[int, FlatPiece]) -> TrainedWeight:
    if layer.use_dora.get(NAME, False):
        raise UserError(
            f"{OPTION}.kind is dora, whose factors are no sum with the weight, so that a direction of the weight is "
            f"none of theirs; give {OPTION}.kind lora or rslora"
        )
    inner, outer = _factors_of(layer)
    inner_piece, outer_piece = pieces.get(id(inner)), pieces.get(id(outer))
    shape = (_shape_of(outer, outer_piece)[0], *_shape_of(inner, inner_piece)[1:])
    factors = LowRankFactors(inner, outer, float(layer.scaling[NAME]), inner_piece, outer_piece)
    return TrainedWeight(f"{plain_name(name)}.weight", shape, None, factors)


def _shape_of(parameter: nn.Parameter, piece: FlatPiece | None) -> tuple[int, ...]:
    return tuple(parameter.shape) if piece is None else piece.shape


def _flat_pieces(root: nn.Module) -> dict[int, FlatPiece]:
    """Finds what this rank holds of each parameter, by the parameter's identity, where FSDP made flat rows of them.

    Raises:
        UserError: FSDP does not keep the parameters, or keeps gradients elsewhere than it computes.
    """
    found: dict[int, FlatPiece] = {}
    for wrapper in FullyShardedDataParallel.fsdp_modules(root):
        handle = wrapper._handle
        if handle is None or not handle.uses_sharded_strategy:
            continue
        row = handle.flat_param
        if row._params is None:
            raise UserError(
                "trainer.strategy fsdp was given use_orig_params false, which hides gradients; leave it out"
            )
        if handle._offload_params:
            raise UserError(
                "trainer.strategy fsdp was given cpu_offload, where gradients cannot be summed over ranks; leave it out"
            )
        for parameter, shape, own in zip(row._params, row._shapes, row._shard_param_infos, strict=True):
            start, last = own.intra_param_start_idx or 0, own.intra_param_end_idx
            stop = start if last is None else last + 1
            found[id(parameter)] = FlatPiece(tuple(shape), start, stop, handle.process_group)
    return found
