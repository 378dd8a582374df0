"""Two ranks are stopped, resume, and end as two that never were; and so does what is exported, also from shards."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_vlm.cli import main
from lit_vlm.functional.training_checkpoint import open_training_checkpoint
from tests.command_line.killed_runs import CALLBACKS, assert_goes_on
from tests.command_line.test_resume import RECIPES, REWARD
from tests.command_line.workplaces import enter
from tests.paradigms.processes import run_ranks

SCRIPT = """
import os, sys
sys.path.insert(0, {root!r})
import torch
from lit_vlm.cli import main
folder, *words, out = sys.argv[1:]
os.chdir(folder)
sys.argv = ["lit-vlm"]
try:
    assert main(words) == 0
except RuntimeError as error:
    assert str(error) == "stopped"
if os.environ.get("LOCAL_RANK", "0") == "0":
    torch.save({{}}, out)
"""
CUT = ["--trainer.strategy=FullyShardedStrategy", "--trainer.strategy.save_distributed_checkpoint=true"]
STRATEGIES = {"ddp": ["--trainer.strategy=ddp"], "fsdp2": ["--trainer.strategy=fsdp2"], "shards": CUT}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*tensorboard.*")]


def weights(folder):
    (run,) = folder.glob("checkpoints/step=*00000006.ckpt")
    checkpoint = open_training_checkpoint(run)
    return {name: checkpoint.read(name) for name in checkpoint.names}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_ranks_that_were_stopped_end_as_if_they_had_not_been(
    random_tiny_folder, tmp_path, monkeypatch, capsys, name, strategy
):
    (tmp_path / f"{name}.yaml").write_text(RECIPES[name].replace("CHECKPOINT", str(random_tiny_folder)))
    (tmp_path / "my_rewards.py").write_text(REWARD)
    (tmp_path / "watching.py").write_text(CALLBACKS)
    words = ["fit", "--config", f"{name}.yaml", "--trainer.devices=2", "--data.train_size=16", "--trainer.max_steps=6"]
    words += ["--trainer.max_epochs=-1", *STRATEGIES[strategy]]

    def run(place, *more):
        run_ranks(SCRIPT, tmp_path / f"{place}.pt", 2, tmp_path, *words, *more)
        return tmp_path / "runs" / name / f"version_{place}"

    whole = run(0)
    stopped = run(1, "--trainer.callbacks+=watching.Stop", "--trainer.callbacks.step=3")
    rest = run(2, "--ckpt_path=last")
    if strategy != "shards":
        assert_goes_on(whole, stopped, rest, 3)
    expected, found = weights(whole), weights(rest)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    enter(monkeypatch, tmp_path)
    for place in (whole, rest):
        assert main(["export", str(place), "--output", str(tmp_path / "models" / place.name)]) == 0
    first, second = (load_file(path) for path in sorted(Path("models").glob("*/model.safetensors")))
    assert first.keys() == second.keys()
    assert all(torch.equal(second[name], value) for name, value in first.items())
    # A single process goes on with it, on batches of as many samples in all.
    cut = ["--trainer.strategy=fsdp2"] if strategy == "shards" else ["--trainer.strategy=auto"]
    alone = [
        *words,
        "--trainer.devices=1",
        "--data.batch_size=4",
        *cut,
        "--trainer.max_steps=7",
        "--ckpt_path",
        str(rest),
    ]
    run_ranks(SCRIPT, tmp_path / "alone.pt", 1, tmp_path, *alone)
    if strategy == "shards":
        assert main([*alone, "--trainer.strategy=auto"]) == 2
        assert "lies in shards, which this trainer.strategy does not read" in capsys.readouterr().err
