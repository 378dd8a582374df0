"""Compares the planned memory of each of two ranks with the bytes that its tensors hold."""

import json

import pytest

from tests.paradigms.processes import run_ranks

SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
import torch
from tests.paradigms import test_planned_memory_on_ranks as planned
kind, strategy, folder, options, out = sys.argv[1:]
figures = planned.measure(kind, strategy, folder, json.loads(options))
if torch.distributed.get_rank() == 0:
    torch.save({{"planned": figures[0], "measured": figures[1]}}, out)
torch.distributed.barrier()
"""
CLOSE = 0.2


def measure(kind, strategy, folder, options):
    """Returns the planned and the measured bytes of a step of this rank."""
    from lit_vlm.models.adapters import AdapterSettings
    from lit_vlm.models.backbone import Backbone
    from lit_vlm.paradigms.dpo import DPOModule
    from lit_vlm.paradigms.sft import SFTModule
    from tests.paradigms.preference_material import with_pair
    from tests.paradigms.step_memory import long_samples, measure_step
    from tests.paradigms.test_planned_memory import grpo

    adapter = options.pop("adapter", None)
    backbone = Backbone(**options, adapter=None if adapter is None else AdapterSettings(**adapter))
    modules = {"sft": SFTModule, "dpo": DPOModule, "grpo": grpo}
    samples = long_samples(32)
    if kind == "dpo":
        samples = [with_pair(sample) for sample in samples]
    step = measure_step(modules[kind](backbone), samples, 4, folder, devices=2, strategy=strategy)
    assert step.plan is not None
    print(step.plan)
    return step.plan.peak, step.peak


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sft", {}),
        ("sft", {"adapter": {"parts": ["vision", "language"], "rank": 4}}),
        ("sft", {"gradient_checkpointing": True}),
        ("dpo", {}),
        ("grpo", {"from_scratch": True}),
    ],
    ids=["sft", "lora", "checkpointing", "dpo", "grpo"],
)
def test_each_rank_holds_what_was_planned(kind, options, strategy, tmp_path):
    found = run_ranks(SCRIPT, tmp_path / "out.pt", 2, kind, strategy, tmp_path, json.dumps(options))
    assert found["planned"] == pytest.approx(found["measured"], rel=CLOSE)
