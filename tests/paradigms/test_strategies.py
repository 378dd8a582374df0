import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.strategy import Strategy

from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.strategies import strategy_kind


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: SingleDeviceStrategy(torch.device("cpu")), "single"),
        (DDPStrategy, "ddp"),
        (FSDPStrategy, "fsdp1"),
        (ModelParallelStrategy, "fsdp2"),
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
