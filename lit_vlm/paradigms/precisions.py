"""What ``trainer.precision`` does to a policy.

Lightning's plugin for ``bf16-true`` would convert all that a module and a batch hold: positions, which need more bits,
rewards and loss weights among them. Here the policy alone is loaded in that type and trained in it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import Strategy

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.support_matrix import StrategyKind


class HalfWeights(Precision):
    """Leaves module and batches as they are: the policy holds weights of half the size already."""

    precision: Any = "bf16-true"


def weights_of_precision(strategy: Strategy, backbone: Backbone) -> Backbone:
    """Turns ``bf16-true`` into a type of weights, and takes the place of Lightning's plugin for it.

    Args:
        strategy: The Trainer's; its plugin is changed.
        backbone: How the model is to be loaded.

    Returns:
        The same, with the type of weights that the precision asks for.

    Raises:
        UserError: The precision does not go with training, or contradicts the backbone.
    """
    plugin = strategy.precision_plugin
    if isinstance(plugin, HalfWeights):
        return replace(backbone, dtype="bfloat16")
    if not isinstance(plugin, HalfPrecision):
        return backbone
    if plugin.precision != "bf16-true":
        raise UserError(
            f"trainer.precision {plugin.precision} holds weights in float16, in which small changes are lost and "
            "gradients overflow; give trainer.precision bf16-true, or 16-mixed on a GPU"
        )
    if backbone.dtype not in ("float32", "bfloat16"):
        raise UserError(
            f"trainer.precision bf16-true holds weights in bfloat16, but model.backbone.dtype is {backbone.dtype}; "
            "leave one of the two out"
        )
    strategy.precision_plugin = HalfWeights()
    return replace(backbone, dtype="bfloat16")


def compute_dtype(strategy: Strategy, kind: StrategyKind) -> torch.dtype | None:
    """Tells in which type weights that are cut up are gathered; None for their own.

    Raises:
        UserError: Gradients would have to be scaled, which Lightning cannot do where they are cut up.
    """
    plugin = strategy.precision_plugin
    if kind != "fsdp2" or not isinstance(plugin, MixedPrecision):
        return None
    if plugin.precision == "16-mixed":
        raise UserError(
            "trainer.precision 16-mixed scales gradients, which does not go with trainer.strategy fsdp2; give "
            "trainer.precision bf16-mixed"
        )
    return torch.bfloat16
