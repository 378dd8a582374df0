"""GRPO on several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
folder, devices, batch_size, out, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
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


def run_in_processes(folder, devices, batch_size, out, kind="data"):
    script = out.with_suffix(".py")
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, str(script), str(folder), str(devices), str(batch_size), str(out), kind],
        check=True,
        env=environment,
        timeout=300,
        capture_output=True,
    )
    return torch.load(out, weights_only=True)


def test_two_processes_take_the_steps_of_one(random_tiny_folder, tmp_path):
    one_figures, one = run_in_processes(random_tiny_folder, 1, 8, tmp_path / "one.pt")
    two_figures, two = run_in_processes(random_tiny_folder, 2, 4, tmp_path / "two.pt")
    assert len(one_figures) == len(two_figures) == 3
    for alone, together in zip(one_figures, two_figures, strict=True):
        assert together.pop("completions") * 2 == alone.pop("completions")
        assert together == pytest.approx(alone, abs=1e-4, rel=1e-3)
    same_weights(one, two, 1e-4)


def test_a_process_without_prompts_goes_along(random_tiny_folder, tmp_path):
    one_figures, one = run_in_processes(random_tiny_folder, 1, 2, tmp_path / "one.pt", "half_bad_data")
    two_figures, two = run_in_processes(random_tiny_folder, 2, 1, tmp_path / "two.pt", "half_bad_data")
    alone = [figures["completions"] for figures in one_figures]
    together = [figures["completions"] for figures in two_figures]
    assert any(first == 0 < both for first, both in zip(together, alone, strict=True))
    same_weights(one, two, 1e-4)
