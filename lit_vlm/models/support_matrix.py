"""Which ways of training work under which strategy, checked before anything is loaded."""

from __future__ import annotations

from typing import Literal

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone

StrategyKind = Literal["single", "ddp", "fsdp1", "fsdp2", "deepspeed", "deepspeed_3"]
"""How weights lie on devices; ``deepspeed`` is a stage that does not cut weights up."""


def check_support(strategy: StrategyKind, backbone: Backbone) -> None:
    """Refuses what is known to fail, late or silently, where weights are cut up over devices.

    Args:
        strategy: How the Trainer spreads the model.
        backbone: What is loaded, and how.

    Raises:
        UserError: The two do not go together; it names the mend.
    """
    adapter, quantisation = backbone.adapter, backbone.quantisation
    if strategy in ("single", "ddp", "deepspeed") or adapter is None:
        return
    if quantisation is not None and (strategy != "fsdp1" or quantisation.kind == "int8"):
        raise UserError(
            f"trainer.strategy cuts weights up, which model.backbone.quantisation.kind {quantisation.kind} does not "
            "stand; give trainer.strategy ddp"
            + (", or fsdp with storage of the weights' type" if quantisation.kind == "nf4" else "")
        )
    if strategy == "deepspeed_3" and backbone.gradient_checkpointing:
        raise UserError(
            "model.backbone.gradient_checkpointing with an adapter does not work under DeepSpeed stage 3; "
            "leave it out, or give trainer.strategy ddp"
        )
    if strategy != "fsdp1":
        return
    if backbone.dtype == "auto":
        raise UserError("trainer.strategy fsdp with an adapter needs one type of weights; name model.backbone.dtype")
    if adapter.dtype != "same" and backbone.dtype != adapter.dtype:
        raise UserError(
            f"trainer.strategy fsdp needs one type of weights, but the model is {backbone.dtype} and the adapter "
            f"{adapter.dtype}; give model.backbone.adapter.dtype same"
        )
    if quantisation is not None and quantisation.storage != backbone.dtype:
        raise UserError(
            f"trainer.strategy fsdp needs one type of weights, but the model is {backbone.dtype} and "
            f"model.backbone.quantisation.storage {quantisation.storage}; give storage {backbone.dtype}"
        )
