"""GRPO on several processes."""

import pytest

from tests.paradigms.processes import run_script
from tests.paradigms.test_grpo import same_weights

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.paradigms import on_policy_material as material
import torch
from lit_vlm.advantages.group_relative import GroupRelative
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
folder, devices, batch_size, kind, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
model = material.module(
    folder,
    advantage=GroupRelative(scale="batch"),
    objective=ClippedPolicyLoss(kl=0.01, aggregation="grpo"),
    reference=ReferenceSettings(),
    update=UpdateSettings(epochs=2, micro_batch_tokens=300),
)
options = dict(devices=devices, strategy="ddp") if devices > 1 else {{}}
data = getattr(material, kind)(model.encoder, batch_size=batch_size)
watch, weights = material.fit(model, data, steps=6, **options)
if model.global_rank == 0:
    figures = [{{k: v for k, v in i.figures.items() if "seconds" not in k}} for i in watch.iterations]
    figures = [{{**values, "completions": len(i.rollouts)}} for values, i in zip(figures, watch.iterations)]
    torch.save((figures, weights), out)
if torch.distributed.is_initialized():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def test_two_processes_take_the_steps_of_one(random_tiny_folder, tmp_path):
    one_figures, one = run_script(SCRIPT, tmp_path / "one.pt", random_tiny_folder, 1, 8, "data")
    two_figures, two = run_script(SCRIPT, tmp_path / "two.pt", random_tiny_folder, 2, 4, "data")
    assert len(one_figures) == len(two_figures) == 3
    for alone, together in zip(one_figures, two_figures, strict=True):
        assert together.pop("completions") * 2 == alone.pop("completions")
        assert together == pytest.approx(alone, abs=1e-4, rel=1e-3)
    same_weights(one, two, 1e-4)


def test_a_process_without_prompts_goes_along(random_tiny_folder, tmp_path):
    one_figures, one = run_script(SCRIPT, tmp_path / "one.pt", random_tiny_folder, 1, 2, "half_bad_data")
    two_figures, two = run_script(SCRIPT, tmp_path / "two.pt", random_tiny_folder, 2, 1, "half_bad_data")
    alone = [figures["completions"] for figures in one_figures]
    together = [figures["completions"] for figures in two_figures]
    assert any(first == 0 < both for first, both in zip(together, alone, strict=True))
    same_weights(one, two, 1e-4)
