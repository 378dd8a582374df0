"""Switches an adapter off for a while, which leaves the model that it is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Opens a context in which the layers of a model compute without their adapters.

    Parts that are trained in full beside an adapter compute with the weights that they had before.

    Args:
        model: A model with an adapter; what trains is as before at the end.
    """
    layers = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    trained = {name: value.requires_grad for name, value in model.named_parameters()}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        # Switching adapters changes what trains.
        for name, value in model.named_parameters():
            value.requires_grad_(trained[name])
