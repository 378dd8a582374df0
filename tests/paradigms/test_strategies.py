from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    StrategyRegistry,
)
from lightning.pytorch.strategies.strategy import Strategy

from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.strategies import FullyShardedStrategy, data_parallel_mesh, saves_pieces, strategy_kind


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: SingleDeviceStrategy(torch.device("cpu")), "single"),
        (DDPStrategy, "ddp"),
        (FSDPStrategy, "fsdp1"),
        (ModelParallelStrategy, "fsdp2"),
        (lambda: StrategyRegistry.get("fsdp2"), "fsdp2"),
    ],
)
def test_strategies_are_told_apart(make, kind):
    assert strategy_kind(make()) == kind


@pytest.mark.parametrize(("stage", "kind"), [(2, "deepspeed"), (3, "deepspeed_3")])
def test_a_deepspeed_strategy_is_told_by_its_stage(stage, kind):
    from lightning.pytorch.strategies import DeepSpeedStrategy

    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)  # its constructor needs deepspeed itself
    strategy.config = {"zero_optimization": {"stage": stage}}
    assert strategy_kind(strategy) == kind


def test_another_strategy_is_refused():
    class Other(Strategy):
        pass

    Other.__abstractmethods__ = frozenset()
    with pytest.raises(UserError, match="trainer.strategy is Other"):
        strategy_kind(Other())


def test_fsdp2_is_one_group_of_all_processes(monkeypatch):
    strategy = StrategyRegistry.get("fsdp2")
    assert isinstance(strategy, FullyShardedStrategy)
    monkeypatch.setattr(ModelParallelStrategy, "setup_environment", lambda self: None)
    strategy.num_nodes = 3
    strategy.parallel_devices = [torch.device("cpu")] * 2
    strategy.setup_environment()
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (6, 1)


def test_single_layers_are_not_computed_by_several_devices():
    strategy = ModelParallelStrategy()
    for size in (1, 2):
        parallel = SimpleNamespace(size=lambda size=size: size)
        strategy._device_mesh = {"tensor_parallel": parallel, "data_parallel": "mesh"}
        if size == 1:
            assert data_parallel_mesh(strategy) == "mesh"
        else:
            with pytest.raises(UserError, match=r"tensor_parallel_size 2.*give trainer\.strategy fsdp2"):
                data_parallel_mesh(strategy)


def test_who_writes_checkpoints_in_pieces():
    assert saves_pieces(ModelParallelStrategy())
    assert saves_pieces(FullyShardedStrategy(save_distributed_checkpoint=True))
    assert not saves_pieces(FullyShardedStrategy())
    assert not saves_pieces(DDPStrategy())
