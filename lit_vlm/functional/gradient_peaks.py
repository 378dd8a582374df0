"""How large the gradients of a module are, looked at for what is infinite or NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def gradient_peaks(module: nn.Module) -> tuple[list[str], Tensor]:
    """Returns the largest absolute value of each gradient, infinite or NaN where the gradient is so anywhere.

    Args:
        module: Whose parameters have gradients or not.

    Returns:
        Names of the parameters that have one, and the values, shape ``(N,)``, on the device of the first, fp32; of
        gradients that ranks hold in pieces, those of this rank's piece.
    """
    names, pieces = [], []
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad
            piece = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            if piece.numel():
                names.append(name)
                pieces.append(piece)
    if not pieces:
        return [], torch.zeros(0)
    peaks = torch._foreach_norm(pieces, torch.inf)
    return names, torch.stack([peak.float().to(pieces[0].device) for peak in peaks])


def spoilt_weights(module: nn.Module) -> tuple[str, ...]:
    """Names the trained parameters that hold something infinite or NaN, as far as this rank has them."""
    return tuple(
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not bool(_local(parameter).isfinite().all())
    )


def _local(parameter: nn.Parameter) -> Tensor:
    value = parameter.detach()
    return value.to_local() if isinstance(value, DTensor) else value
