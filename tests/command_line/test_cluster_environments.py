"""Two nodes, as processes of this machine, under each way of starting them that the guides show."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.paradigms.processes import run_ranks

OPTIONS = [
    "fit",
    *("--model", "SFTModule", "--model.generation.max_new_tokens", "4"),
    *("--data", "DigitsReasoning", "--data.train_size", "16", "--data.validation_size", "4"),
    *("--data.batch_size", "2", "--data.num_workers", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"),
    *("--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false"),
]

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import socket
import torch
from lit_vlm.cli import main
socket.gethostname = lambda: "localhost"  # the only name here that surely leads to this machine
*words, out = sys.argv[1:]
assert main(words) == 0
if torch.distributed.get_rank() == 0:
    torch.save({{"ranks": torch.distributed.get_world_size()}}, out)
"""


def checkpoint(folder):
    (found,) = folder.rglob("*.ckpt")
    return torch.load(found, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("manager", ["slurm", "lightning", "lsf", "kubeflow"])
def test_two_nodes_of_a_manager_train_together(random_tiny_folder, tmp_path, manager, strategy):
    (tmp_path / "ranks").write_text("launcher\nlocalhost\nlocalhost\n")
    of_all = {
        "slurm": {
            "SLURM_JOB_ID": "4242",
            "SLURM_JOB_NAME": "train",
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_NNODES": "2",
            "SLURM_NODELIST": "127.0.0.1",
            "SLURM_LOCALID": "0",
        },
        "lightning": {},
        "lsf": {
            "LSB_JOBID": "4242",
            "LSB_DJOB_RANKFILE": str(tmp_path / "ranks"),
            "JSM_NAMESPACE_SIZE": "2",
            "JSM_NAMESPACE_LOCAL_RANK": "0",
        },
        "kubeflow": {"WORLD_SIZE": "2"},
    }[manager]
    of_node = {
        "slurm": ("SLURM_PROCID", "SLURM_NODEID"),
        "lightning": ("NODE_RANK",),
        "lsf": ("JSM_NAMESPACE_RANK",),
        "kubeflow": ("RANK",),
    }[manager]
    environments = [of_all | dict.fromkeys(of_node, str(node)) for node in range(2)]
    words = [*OPTIONS, f"--model.backbone.checkpoint={random_tiny_folder}", f"--trainer.strategy={strategy}"]
    words.append(f"--trainer.default_root_dir={tmp_path}")
    if manager == "kubeflow":
        words.append("--trainer.plugins+=lightning.pytorch.plugins.environments.KubeflowEnvironment")
    assert run_ranks(SCRIPT, tmp_path / "out.pt", 2, *words, environments=environments) == {"ranks": 2}
    assert checkpoint(tmp_path)["global_step"] == 2


@pytest.mark.slow
def test_two_nodes_of_torchrun_train_together(random_tiny_folder, tmp_path):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"),
        *("-m", "lit_vlm", *OPTIONS, f"--model.backbone.checkpoint={random_tiny_folder}"),
        *("--trainer.strategy", "fsdp2", f"--trainer.default_root_dir={tmp_path}"),
    ]
    nodes = [
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    try:
        told = [node.communicate(timeout=300)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n----\n".join(told)
    assert checkpoint(tmp_path)["global_step"] == 2
