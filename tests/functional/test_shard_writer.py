"""Streamed shards: how tensors are divided, what a file holds, resuming, and what is refused."""

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lit_vlm.functional.shard_writer import ShardWriter, TensorSpec, parse_size, plan_shards
from lit_vlm.interfaces.errors import UserError


def spec(name: str, *shape: int, dtype: torch.dtype = torch.uint8) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def numbers(tensor: TensorSpec) -> Tensor:
    values = torch.arange(math.prod(tensor.shape), dtype=torch.float32) + sum(map(ord, tensor.name))
    return values.to(tensor.dtype).reshape(tensor.shape)


MIXED = (
    spec("half", 3, dtype=torch.bfloat16),
    spec("whole", 2, 2, dtype=torch.float32),
    spec("flag", 3, dtype=torch.bool),
    spec("scalar", dtype=torch.float32),
    spec("none", 0, 4, dtype=torch.float16),
)


def write_all(folder: Path, tensors: tuple[TensorSpec, ...], largest: int = 10**9, fingerprint: str = "f") -> list[str]:
    written = []
    with ShardWriter(folder, tensors, largest, fingerprint) as writer:
        for tensor in writer.unwritten():
            writer.write(tensor.name, numbers(tensor))
            written.append(tensor.name)
        writer.finish()
    return written


def read_all(folder: Path) -> dict[str, Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def partial(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial"


@pytest.mark.parametrize(
    ("sizes", "largest", "expected"),
    [
        # a and b fill 7; c would make 9, d 11; e does not fit after d, which is too large by itself.
        ({"a": 3, "b": 4, "c": 2, "d": 9, "e": 1}, 7, [["a", "b"], ["c"], ["d"], ["e"]]),
        ({"a": 3, "b": 4}, 8, [["a", "b"]]),
        ({"a": 9}, 7, [["a"]]),
        ({}, 7, []),
    ],
)
def test_a_shard_is_closed_before_it_would_grow_too_large(
    sizes: dict[str, int], largest: int, expected: list[list[str]]
) -> None:
    shards = plan_shards([spec(name, size) for name, size in sizes.items()], largest)
    assert [[tensor.name for tensor in shard] for shard in shards] == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 kb", 1500), ("2GiB", 2 * 2**30), ("7", 7), (12, 12), ("3B", 3)],
)
def test_sizes_are_decimal_unless_they_say_otherwise(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "5 lumps", "0GB", "0.1B", 0])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(UserError, match="largest_shard"):
        parse_size(text)


def test_one_file_holds_every_type_bit_for_bit(tmp_path: Path) -> None:
    write_all(tmp_path / "out", MIXED)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.safetensors"]
    found = read_all(tmp_path / "out")
    assert found.keys() == {tensor.name for tensor in MIXED}
    for tensor in MIXED:
        assert found[tensor.name].dtype == tensor.dtype
        assert torch.equal(found[tensor.name], numbers(tensor))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("largest", [1, 7, 20, 10**6])
def test_the_numbers_do_not_depend_on_the_size_of_shards(tmp_path: Path, largest: int) -> None:
    write_all(tmp_path / "out", MIXED, largest)
    found = read_all(tmp_path / "out")
    assert all(torch.equal(found[tensor.name], numbers(tensor)) for tensor in MIXED)


def test_many_shards_have_an_index_with_the_bytes_of_all_tensors(tmp_path: Path) -> None:
    tensors = (spec("a", 3), spec("b", 4), spec("c", 2))
    write_all(tmp_path / "out", tensors, largest=7)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {"metadata": {"total_size": 9}, "weight_map": {"a": first, "b": first, "c": second}}
    assert load_file(tmp_path / "out" / second).keys() == {"c"}


def test_strided_and_differentiable_tensors_are_written_as_they_read(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    tensors = (spec("t", 3, 2, dtype=torch.float32), spec("p", 2, 3, dtype=torch.float32))
    with ShardWriter(tmp_path / "out", tensors, 100, "f") as writer:
        writer.write("t", matrix.T)
        writer.write("p", torch.nn.Parameter(matrix))
        writer.finish()
    found = read_all(tmp_path / "out")
    assert torch.equal(found["t"], matrix.T)
    assert torch.equal(found["p"], matrix)


def test_a_stopped_writer_leaves_nothing_at_the_target_and_is_gone_on_with(tmp_path: Path) -> None:
    output = tmp_path / "out"
    tensors = tuple(spec(name, 4) for name in "abcde")

    def stop_before_d() -> None:
        with ShardWriter(output, tensors, 8, "f") as writer:
            for tensor in writer.unwritten():
                if tensor.name == "d":
                    raise RuntimeError("power")
                writer.write(tensor.name, numbers(tensor))

    with pytest.raises(RuntimeError, match="power"):
        stop_before_d()
    assert not output.exists()
    # The shard of a and b was complete; c shared one with d.
    assert write_all(output, tensors, 8) == ["c", "d", "e"]
    assert all(torch.equal(read_all(output)[tensor.name], numbers(tensor)) for tensor in tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in output.glob("*.json")] == ["model.safetensors.index.json"]


@pytest.mark.parametrize("change", ["fingerprint", "largest", "plan"])
def test_another_merge_does_not_take_over_what_was_begun(tmp_path: Path, change: str) -> None:
    output = tmp_path / "out"
    tensors = (spec("a", 4), spec("b", 4))
    with ShardWriter(output, tensors, 4, "f") as writer:
        writer.write("a", numbers(tensors[0]))
    other = (spec("a", 4), spec("b", 5)) if change == "plan" else tensors
    written = write_all(output, other, 8 if change == "largest" else 4, "g" if change == "fingerprint" else "f")
    assert written == ["a", "b"]


def test_a_killed_process_leaves_no_checkpoint_and_its_shards_are_used(tmp_path: Path) -> None:
    program = """
        import os, signal, sys, torch
        from pathlib import Path
        from lit_vlm.functional.shard_writer import ShardWriter, TensorSpec
        tensors = [TensorSpec(name, torch.uint8, (4,)) for name in "abc"]
        with ShardWriter(Path(sys.argv[1]), tensors, 4, "f") as writer:
            for tensor in writer.unwritten():
                if tensor.name == "c":
                    os.kill(os.getpid(), signal.SIGKILL)
                writer.write(tensor.name, torch.full((4,), ord(tensor.name), dtype=torch.uint8))
    """
    output = tmp_path / "out"
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(output)], check=False)
    assert result.returncode == -9
    assert not output.exists()
    assert write_all(output, (spec("a", 4), spec("b", 4), spec("c", 4)), 4) == ["c"]
    assert read_all(output)["a"].tolist() == [ord("a")] * 4


def test_further_files_come_before_the_folder_has_its_name(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()

    def extra(folder: Path) -> None:
        assert not any(output.iterdir())
        (folder / "config.json").write_text("{}")

    with ShardWriter(output, (spec("a", 1),), 9, "f") as writer:
        writer.write("a", numbers(spec("a", 1)))
        writer.finish(extra)
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "model.safetensors"]


def test_a_fault_in_further_files_can_be_mended_without_writing_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError("no tokenizer")

    output = tmp_path / "out"
    with ShardWriter(output, (spec("a", 1),), 9, "f") as writer:
        writer.write("a", numbers(spec("a", 1)))
        with pytest.raises(OSError, match="no tokenizer"):
            writer.finish(fail)
    assert not output.exists()
    assert write_all(output, (spec("a", 1),), 9) == []
    assert output.is_dir()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("b", torch.zeros(4, dtype=torch.uint8)),
        ("a", torch.zeros(2, 2, dtype=torch.uint8)),
        ("a", torch.zeros(4)),
    ],
)
def test_a_tensor_that_is_not_due_is_refused(tmp_path: Path, name: str, value: Tensor) -> None:
    with (
        ShardWriter(tmp_path / "out", (spec("a", 4), spec("b", 4)), 9, "f") as writer,
        pytest.raises(ValueError, match="due is 'a'"),
    ):
        writer.write(name, value)


def test_a_tensor_left_out_is_noticed(tmp_path: Path) -> None:
    tensors = (spec("a", 1), spec("b", 1))
    with ShardWriter(tmp_path / "out", tensors, 9, "f") as writer:
        assert writer.unwritten() == list(tensors)
        writer.write("a", numbers(tensors[0]))
        assert writer.unwritten() == [tensors[1]]
        with pytest.raises(ValueError, match="'b' and what follows"):
            writer.finish()
        writer.write("b", numbers(tensors[1]))
        assert writer.unwritten() == []
        with pytest.raises(ValueError, match="after the last"):
            writer.write("c", torch.zeros(1, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((), "nothing to write"),
        ((spec("a", 1), spec("a", 2)), "planned twice"),
        ((spec("a", 1, dtype=torch.complex64),), "do not hold"),
    ],
)
def test_a_plan_that_cannot_be_written_is_refused(
    tmp_path: Path, tensors: tuple[TensorSpec, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ShardWriter(tmp_path / "out", tensors, 9, "f")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    if kind == "file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        ShardWriter(output, (spec("a", 1),), 9, "f")


def test_a_full_disk_is_told_of_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="GB left"):
        ShardWriter(tmp_path / "out", (spec("a", 10**17),), 9, "f")
