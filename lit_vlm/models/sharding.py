"""Cuts the weights of a policy up over ranks by torch's ``fully_shard`` (FSDP2), and puts them together for a while.

Each decoder and vision block is a piece that is gathered when it is needed and let go of after; all other weights
(embeddings, head, norms, projector) are one piece, so that tied ones stay together. Gradients and optimizer states
are of a rank's own share. Each rank reads the whole checkpoint into main memory once, and then keeps its share only:
blocks are cut, and moved to the device, one by one.

A pass with gradients, and one without in the midst of training, gathers block by block, which all ranks do together;
``in_step`` sees to that. Decoding would gather once a token: it runs between ``gather`` and ``release``, where every
rank holds all weights in the type they are computed in and ranks go their own ways.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_vlm.interfaces.errors import UserError


def shard(policy: nn.Module, mesh: DeviceMesh, compute_dtype: torch.dtype | None, passes: tuple[str, ...]) -> None:
    """Cuts a policy up, in place; optimizers must be made afterwards.

    Args:
        policy: Its ``model`` holds blocks of transformers.
        mesh: The ranks, in one dimension.
        compute_dtype: Type that weights are gathered in; None for their own. Gradients are added up in fp32.
        passes: Methods of the policy that read weights with all ranks together.

    Raises:
        UserError: The model has no blocks, or a weight that cannot be cut.
    """
    scalars = [name for name, value in policy.named_parameters() if value.ndim == 0]
    if scalars:
        raise UserError(
            f"trainer.strategy fsdp2 cannot cut up weights of a single number, of which this model has "
            f"{', '.join(scalars[:3])}; give trainer.strategy ddp"
        )
    blocks = list(_blocks(policy))
    if not blocks:
        raise UserError(
            f"trainer.strategy fsdp2 finds no blocks of layers in {type(policy).__name__} to cut up; give "
            "trainer.strategy ddp"
        )
    # Inputs are left as they are: autocast, which mixed precision brings along, says what is computed in which type.
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    # Now, as the first piece that computes would take itself for the root.
    fully_shard.state(policy)._lazy_init()  # type: ignore[attr-defined]
    for name in passes:
        _gather_for(policy, name)


def is_cut(policy: nn.Module) -> bool:
    """Tells whether a policy was cut up by ``shard``."""
    return isinstance(policy, FSDPModule)


def require_gradients_of_inputs(embedding: nn.Module) -> None:
    """Has gradients reach the decoder's inputs in every pass with gradients, also in those that read text alone.

    Where embeddings are frozen and what reads images trains, they would else do so on ranks with images only, which
    then go through their backward passes in another order and wait for each other for ever.

    Args:
        embedding: Of the decoder's tokens.
    """

    def require(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_(True)

    embedding.register_forward_hook(require)


@torch.inference_mode(False)  # weights that are gathered in that mode could not be trained later
@torch.no_grad()
def gather(policy: nn.Module) -> None:
    """Puts all weights together on each rank, which all ranks must do together."""
    for piece in _pieces(policy):
        piece.set_reshard_after_forward(False, recurse=False)
        piece.unshard()


@torch.inference_mode(False)
@torch.no_grad()
def release(policy: nn.Module) -> None:
    """Lets go of what ``gather`` put together."""
    for piece in _pieces(policy):
        piece.reshard()
        piece.set_reshard_after_forward(piece is not policy, recurse=False)
    forget_order(policy)


def forget_order(policy: nn.Module) -> None:
    """Empties the record of passes by which a backward pass fetches ahead; without one it would grow for ever."""
    for piece in _pieces(policy):
        state = fully_shard.state(piece)  # type: ignore[attr-defined]
        state._comm_ctx.post_forward_order.clear()
        for group in state._fsdp_param_groups:
            group._post_forward_indices.clear()


def local_part(value: Tensor) -> Tensor:
    """Returns this rank's part of a weight; all of one that is not cut up."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """Returns all of a weight, on every rank; all ranks must ask together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_of(part: Tensor, like: Tensor) -> Tensor:
    """Returns all of a tensor of which each rank holds a part, as it does of a weight.

    Args:
        part: This rank's.
        like: The weight.
    """
    if not isinstance(like, DTensor):
        return part
    cut = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return cut.full_tensor()


def part_of_whole(value: Tensor, like: Tensor) -> Tensor:
    """Returns this rank's part of a tensor that every rank has all of.

    Args:
        value: All of it.
        like: The weight that tells how it is cut up.
    """
    if not isinstance(like, DTensor):
        return value
    placed = value.to(like.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None).to_local()


def whole_state(module: nn.Module, *, only_trained: bool, keep: bool) -> dict[str, Tensor]:
    """Puts the weights of a module together one by one, in main memory; all ranks must ask together.

    Args:
        module: The module, cut up.
        only_trained: Whether to leave out weights that do not train.
        keep: Whether this rank wants them; the others help only.

    Returns:
        The weights by their names; none where ``keep`` is false.
    """
    trained = {name for name, value in module.named_parameters(remove_duplicate=False) if value.requires_grad}
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if only_trained and name not in trained:
            continue
        found = whole(value.detach())
        if keep:
            state[name] = found.cpu()
    return state


def _gather_for(policy: nn.Module, name: str) -> None:
    """Lets a method begin and end as a pass of the whole policy."""
    register_fsdp_forward_method(policy, name)
    together = getattr(policy, name)

    @functools.wraps(together)
    def called(*arguments: Any, **options: Any) -> Any:
        if policy.is_gathered:
            return getattr(type(policy), name)(policy, *arguments, **options)
        result = together(*arguments, **options)
        if not torch.is_grad_enabled():
            # No backward pass lets go of what is outside the blocks, and weights may change before the next pass.
            policy.reshard()  # type: ignore[operator]
            forget_order(policy)
        return result

    setattr(policy, name, called)


def _pieces(policy: nn.Module) -> Iterator[Any]:
    return (module for module in policy.modules() if isinstance(module, FSDPModule))


def _blocks(policy: nn.Module) -> Iterator[nn.Module]:
    """Finds the outermost blocks, with weights, in the order of modules."""
    inside: tuple[str, ...] = ()  # no name begins with any of none
    for name, module in policy.named_modules():
        if name.startswith(inside):
            continue
        if isinstance(module, GradientCheckpointingLayer) and any(True for _ in module.parameters()):
            inside = (*inside, f"{name}.")
            yield module
