"""One rank and two take the same steps, whatever spreads the weights, and whatever each rank has to read."""

import json
import subprocess
import sys

import pytest
import torch

from tests.paradigms.processes import ROOT, run_ranks

SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
from tests.paradigms import ranks_material
paradigm, ranks, folder, options, out = sys.argv[1:]
ranks_material.train(paradigm, int(ranks), folder, out, **json.loads(options))
"""


def train(paradigm, ranks, folder, out, **options):
    return run_ranks(SCRIPT, out, ranks, paradigm, ranks, folder, json.dumps(options))


def same(one, two, *, weights=1e-4):
    assert len(one["steps"]) == len(two["steps"]) > 0
    for alone, together in zip(one["steps"], two["steps"], strict=True):
        assert together["train/loss"] == pytest.approx(alone["train/loss"], abs=1e-5)
        assert together == pytest.approx(alone, abs=1e-4, rel=1e-3)
    assert one["weights"].keys() == two["weights"].keys()
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, atol=weights, rtol=0, msg=name)


def ranks_differ(run):
    """Tells whether in some step one rank had images and the other none."""
    first, second = (has_images for has_images, _ in run["ranks"])
    return any(one != other for one, other in zip(first, second, strict=True))


def test_ranks_with_and_without_images_take_the_steps_of_one_where_weights_are_cut_up(random_tiny_folder, tmp_path):
    one = train("sft", 1, random_tiny_folder, tmp_path / "one.pt", strategy="auto", steps=3)
    two = train("sft", 2, random_tiny_folder, tmp_path / "two.pt", strategy="fsdp2", steps=3)
    assert ranks_differ(two)
    same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", ["sft", "dpo", "grpo"])
def test_two_ranks_take_ten_steps_of_one(random_tiny_folder, tmp_path, paradigm):
    one = train(paradigm, 1, random_tiny_folder, tmp_path / "one.pt", strategy="auto")
    for strategy in ("ddp", "fsdp2"):
        two = train(paradigm, 2, random_tiny_folder, tmp_path / f"{strategy}.pt", strategy=strategy)
        assert ranks_differ(two)
        same(one, two)
        if paradigm == "grpo":
            first, second = (longest for _, longest in two["ranks"])
            assert any(abs(one - other) > 4 for one, other in zip(first, second, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", ["sft", "dpo", "grpo"])
def test_adapters_with_frozen_weights_are_cut_up_too(random_tiny_folder, tmp_path, paradigm):
    options = {"steps": 4, "adapter": {"rank": 4, "parts": ["vision", "language"]}}
    one = train(paradigm, 1, random_tiny_folder, tmp_path / "one.pt", strategy="auto", **options)
    two = train(paradigm, 2, random_tiny_folder, tmp_path / "two.pt", strategy="fsdp2", **options)
    same(one, two)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
@pytest.mark.parametrize("paradigm", ["sft", "grpo"])
def test_a_gpu_takes_the_steps_of_a_cpu(random_tiny_folder, tmp_path, paradigm, strategy):
    one = train(paradigm, 1, random_tiny_folder, tmp_path / "one.pt", strategy="auto", steps=2)
    options = json.dumps({"strategy": strategy, "steps": 2, "accelerator": "gpu"})
    script, out = tmp_path / "gpu.py", tmp_path / "gpu.pt"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    words = [sys.executable, str(script), paradigm, "1", str(random_tiny_folder), options, str(out)]
    subprocess.run(words, check=True, timeout=300)
    two = torch.load(out, weights_only=True)
    losses = [[step["train/loss"] for step in run["steps"]] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
