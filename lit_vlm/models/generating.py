"""What a model says of its own generation: which tokens end it, how long it may be, and whether ranks go together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor


def end_token_ids(model: Any) -> tuple[int, ...]:
    """Returns the tokens that end a completion, by the generation configuration; none where it names none."""
    end = model.generation_config.eos_token_id
    return tuple(end) if isinstance(end, list) else () if end is None else (int(end),)


def context_tokens(model: Any) -> int | None:
    """Returns the most tokens of a row; None where the configuration names no limit."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if most is None else int(most)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Opens a context without gradients and in evaluation mode; the mode before returns at its end."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def is_sharded(module: nn.Module) -> bool:
    """Tells whether ranks hold pieces of the weights, so that none can run a pass alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return any(isinstance(part, FullyShardedDataParallel) for part in module.modules()) or any(
        isinstance(value, DTensor) or hasattr(value, "ds_id") for value in module.parameters()
    )


def any_of_all_ranks(value: bool, device: torch.device) -> bool:
    """Tells whether a value holds on any rank."""
    return bool(most_of_all_ranks(int(value), device))


def most_of_all_ranks(value: int, device: torch.device) -> int:
    """Returns the largest value of any rank."""
    found = torch.tensor(value, device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return int(found)
