"""Tells how a Lightning strategy spreads a model over devices."""

from __future__ import annotations

from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.support_matrix import StrategyKind


def strategy_kind(strategy: Strategy) -> StrategyKind:
    """Names what a strategy does to weights.

    Raises:
        UserError: It is none of the strategies that language models are trained with.
    """
    if isinstance(strategy, DeepSpeedStrategy):  # a DDPStrategy too
        return "deepspeed_3" if strategy.zero_stage_3 else "deepspeed"
    kinds: tuple[tuple[type[Strategy], StrategyKind], ...] = (
        (FSDPStrategy, "fsdp1"),
        (ModelParallelStrategy, "fsdp2"),
        (DDPStrategy, "ddp"),
        (SingleDeviceStrategy, "single"),
    )
    for base, kind in kinds:
        if isinstance(strategy, base):
            return kind
    raise UserError(
        f"trainer.strategy is {type(strategy).__name__}, with which this was never tried; give auto, ddp, fsdp or a "
        "ModelParallelStrategy"
    )
