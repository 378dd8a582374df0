"""Tells how a Lightning strategy spreads a model over devices, and adds the strategy ``fsdp2``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.support_matrix import StrategyKind


class FullyShardedStrategy(ModelParallelStrategy):
    """Cuts weights, gradients and optimizer states up over all processes with FSDP2; ``fsdp2`` for short.

    Args:
        save_distributed_checkpoint: Whether a checkpoint is a folder with a file of each process, instead of one file
            that the first process writes, for which it holds weights and optimizer states in main memory.
        process_group_backend: Of torch's collectives; by default ``nccl`` on GPUs and ``gloo`` on CPUs.
        timeout: Longest wait for a collective.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Makes one group of all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


StrategyRegistry.register(
    "fsdp2",
    FullyShardedStrategy,
    description="Weights, gradients and optimizer states cut up over all processes (FSDP2)",
    override=True,
)


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
        f"trainer.strategy is {type(strategy).__name__}, with which this was never tried; give auto, ddp, fsdp2 or fsdp"
    )


def data_parallel_mesh(strategy: Strategy) -> Any:
    """Returns the processes over which a ``ModelParallelStrategy`` cuts weights up, as torch's ``DeviceMesh``.

    Raises:
        UserError: It would cut up single matrix products too.
    """
    if not isinstance(strategy, ModelParallelStrategy):
        raise TypeError(f"{type(strategy).__name__} has no mesh of devices")
    mesh = strategy.device_mesh
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            f"trainer.strategy {type(strategy).__name__} has tensor_parallel_size {mesh['tensor_parallel'].size()}, "
            "but single layers cannot be computed by several devices here; give trainer.strategy fsdp2, which cuts up "
            "by layers over all of them"
        )
    return mesh["data_parallel"]


def saves_pieces(strategy: Strategy) -> bool:
    """Tells whether each process writes its own part of a checkpoint, from which nothing can be left out."""
    return isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint
