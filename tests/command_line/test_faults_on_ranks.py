"""What goes wrong in one of two processes ends both, with a line each and the last checkpoint whole."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FAULTS = """
import multiprocessing, os, pathlib, signal, time

import torch
from lightning.pytorch.callbacks import Callback


class KillWorker(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


class RemoveData(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 0 and trainer.global_step == 2:
            pathlib.Path("train.jsonl").unlink()


def hanging(completion):
    if pathlib.Path("hang").exists() and os.environ.get("LOCAL_RANK") == "1":
        time.sleep(600)
    return 1.0


class Hang(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 2:
            pathlib.Path("hang").touch()
"""
DIGITS = {
    "class_path": "DigitsReasoning",
    "init_args": {"train_size": 400, "validation_size": 4, "test_size": 4, "batch_size": 2, "num_workers": 1},
}
REWARD = {
    "class_path": "lit_vlm.rewards.weighted_rewards.WeightedRewards",
    "init_args": {
        "rewards": [
            {
                "name": "hanging",
                "timeout": 20.0,
                "workers": 1,
                "reward": {
                    "class_path": "lit_vlm.rewards.function_reward.FunctionReward",
                    "init_args": {"function": "faults.hanging"},
                },
            }
        ]
    },
}


def recipe(folder, module, data, callback, **options):
    settings = {"backbone": {"checkpoint": str(folder)}, "generation": {"max_new_tokens": 4}, **options}
    every_step = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"every_n_train_steps": 1, "save_top_k": -1},
    }
    return {
        "model": {"class_path": module, "init_args": settings},
        "data": data,
        "trainer": {
            "accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_steps": 40, "limit_val_batches": 0,
            "enable_progress_bar": False, "callbacks": [{"class_path": f"faults.{callback}"}, every_step],
        },
    }  # fmt: skip


def chat_file(folder):
    def turns(number):
        question = {"role": "user", "content": f"Say {number}."}
        return [question, {"role": "assistant", "content": f"{number}"}]

    text = "".join(json.dumps({"id": str(number), "messages": turns(number)}) + "\n" for number in range(400))
    (folder / "train.jsonl").write_text(text)
    data = {"train": "train.jsonl", "validation_share": 0.1, "batch_size": 2, "num_workers": 1}
    return {"class_path": "ChatDataModule", "init_args": data}


def run(tmp_path, content):
    (tmp_path / "faults.py").write_text(FAULTS)
    (tmp_path / "broken.yaml").write_text(json.dumps(content))
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "lit_vlm", "fit", "--config", "broken.yaml"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=400, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-4000:]
    assert list(tmp_path.rglob("*.ckpt")), done.stderr[-4000:]
    newest = max(tmp_path.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert torch.load(newest, weights_only=True)["global_step"] >= 2
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("lit-vlm: error: ")], time.monotonic() - start


@pytest.mark.slow
def test_a_killed_worker_of_one_rank_ends_both(tmp_path, random_tiny_folder):
    told, _ = run(tmp_path, recipe(random_tiny_folder, "SFTModule", DIGITS, "KillWorker"))
    assert len(told) == 2
    assert all("a process that reads data died" in line for line in told)


@pytest.mark.slow
def test_a_data_file_that_vanishes_ends_both(tmp_path, random_tiny_folder):
    told, _ = run(tmp_path, recipe(random_tiny_folder, "SFTModule", chat_file(tmp_path), "RemoveData"))
    assert len(told) == 2
    assert all("train.jsonl cannot be read any more: No such file or directory" in line for line in told)


@pytest.mark.slow
def test_a_reward_that_hangs_on_one_rank_ends_both(tmp_path, random_tiny_folder):
    engine = {
        "class_path": "lit_vlm.rollouts.hf_rollout_engine.HFRolloutEngine",
        "init_args": {"sampling": {"max_new_tokens": 4}},
    }
    options = {"reward": REWARD, "engine": engine, "group_size": 2}
    told, _ = run(tmp_path, recipe(random_tiny_folder, "GRPOModule", DIGITS, "Hang", **options))
    assert len(told) == 2
    assert all("the reward 'hanging' took longer than 20 s" in line for line in told)
    (other,) = [line for line in told if "rank 1 stopped" in line]
    assert "during the rewards of step" in other
