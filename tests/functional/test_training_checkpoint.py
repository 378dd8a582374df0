import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint

from lit_vlm.functional.training_checkpoint import (
    ShardedCheckpoint,
    SingleFileCheckpoint,
    load_checkpoint_file,
    open_training_checkpoint,
    saved_callbacks,
)
from lit_vlm.interfaces.errors import UserError

WEIGHTS = {
    "_policy.model.a.weight": torch.arange(12.0).reshape(4, 3).bfloat16(),
    "_policy.model.b.bias": torch.tensor([1.5, -2.0]),
}
REST = {"global_step": 7, "epoch": 1, "callbacks": {"Saves": {"best": "x.ckpt"}}}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    path = tmp_path / "one.ckpt"
    torch.save({"state_dict": dict(WEIGHTS), **REST}, path)
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """As Lightning's strategies write it, of one process."""
    folder = tmp_path / "many.ckpt"
    optimizer = {"state": {"a": {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": ["a"]}]}
    state = {"state_dict": dict(WEIGHTS), "optimizer_0": optimizer}
    with pytest.warns(UserWarning, match="torch.distributed is"):
        distributed_checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    torch.save(REST, folder / "meta.pt")
    return folder


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_weights_come_back_one_by_one(kind: str, request: pytest.FixtureRequest) -> None:
    checkpoint = open_training_checkpoint(request.getfixturevalue(kind))
    assert isinstance(checkpoint, SingleFileCheckpoint if kind == "single" else ShardedCheckpoint)
    assert set(checkpoint.names) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert checkpoint.shape(name) == tuple(value.shape)
        assert checkpoint.dtype(name) == value.dtype
        assert torch.equal(checkpoint.read(name), value)
    assert checkpoint.progress == {"global_step": 7, "epoch": 1}
    assert saved_callbacks(checkpoint.path) == REST["callbacks"]


@pytest.mark.slow
def test_pieces_of_two_processes_are_put_together(tmp_path: Path) -> None:
    program = """
        import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as saved
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor
        rank, folder = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
        mesh = init_device_mesh("cpu", (2,))
        rows = distribute_tensor(torch.arange(15.0).reshape(5, 3), mesh, [Shard(0)])
        columns = distribute_tensor(torch.arange(12.0).reshape(2, 6), mesh, [Shard(1)])
        saved.save({"state_dict": {"rows": rows, "columns": columns}}, checkpoint_id=f"{folder}/many.ckpt")
        dist.destroy_process_group()
    """
    words = [sys.executable, "-c", textwrap.dedent(program)]
    ranks = [subprocess.Popen([*words, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    checkpoint = open_training_checkpoint(tmp_path / "many.ckpt")
    assert len(list((tmp_path / "many.ckpt").glob("*.distcp"))) == 2
    assert torch.equal(checkpoint.read("rows"), torch.arange(15.0).reshape(5, 3))
    assert torch.equal(checkpoint.read("columns"), torch.arange(12.0).reshape(2, 6))


def test_a_missing_piece_is_refused(sharded: Path) -> None:
    checkpoint = open_training_checkpoint(sharded)
    assert isinstance(checkpoint, ShardedCheckpoint)
    stored = checkpoint._stored["_policy.model.a.weight"][1]
    stored.chunks[0].sizes = torch.Size([2, 3])
    with pytest.raises(UserError, match="does not hold all pieces of '_policy.model.a.weight'"):
        checkpoint.read("_policy.model.a.weight")


def test_a_damaged_shard_is_refused(sharded: Path) -> None:
    checkpoint = open_training_checkpoint(sharded)
    (shard,) = sharded.glob("*.distcp")
    shard.write_bytes(b"\0" * shard.stat().st_size)
    with pytest.raises(UserError, match=r"'_policy\.model\.a\.weight' cannot be read"):
        checkpoint.read("_policy.model.a.weight")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": 1}, "holds no state_dict of tensors"),
        ({"state_dict": {"a": [1, 2]}}, "holds no state_dict of tensors"),
        ([1, 2], "holds a list"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        open_training_checkpoint(tmp_path / "x.ckpt")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, single: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        open_training_checkpoint(tmp_path / "nothing.ckpt")
    with pytest.raises(UserError, match="is no checkpoint; give a run's folder"):
        open_training_checkpoint(tmp_path)
    single.write_bytes(single.read_bytes()[:-200])
    with pytest.raises(UserError, match="was cut short"):
        open_training_checkpoint(single)
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(UserError, match="is no checkpoint of tensors"):
        load_checkpoint_file(tmp_path / "plain.ckpt")


def test_deepspeed_is_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "zero_to_fp32.py").touch()
    with pytest.raises(UserError, match=r"written by DeepSpeed; .* zero_to_fp32\.py"):
        open_training_checkpoint(tmp_path)
