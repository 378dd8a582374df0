"""Saved task vectors: what is written is what is read, and nothing else passes for one."""

import json
from pathlib import Path

import pytest
import torch

from lit_vlm.functional.shard_writer import TensorSpec
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.saved_vector import VectorDescription, open_vector, write_vector

NAME, OTHER = "layers.0.mlp.up_proj.weight", "norm.weight"
DIFFERENCES = {NAME: torch.tensor([[0.5, -1.0], [0.25, 3.0]]), OTHER: torch.tensor([1.0, 2.0])}
DESCRIPTION = VectorDescription("grown", "base", layers=2, digests={"plus": {"a": "1"}}, further={"alpha": 0.5})


def save(folder: Path, dtype: torch.dtype = torch.float32, largest: str = "5GB") -> None:
    weights = [TensorSpec(name, dtype, tuple(value.shape)) for name, value in DIFFERENCES.items()]
    write_vector(folder, weights, DIFFERENCES.__getitem__, DESCRIPTION, largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("largest", ["1B", "5GB"])
def test_what_is_written_is_read(tmp_path: Path, dtype: torch.dtype, largest: str) -> None:
    save(tmp_path / "vector", dtype, largest)
    vector = open_vector(tmp_path / "vector")
    assert vector.description == DESCRIPTION
    assert (vector.label, vector.folder) == (str(tmp_path / "vector"), tmp_path / "vector")
    assert set(vector.names) == DIFFERENCES.keys()
    assert not vector.configuration
    with vector.opened() as source:
        for name, value in DIFFERENCES.items():
            assert (source.dtype(name), source.shape(name)) == (dtype, tuple(value.shape))
            # All are powers of two or short of bits, so bfloat16 holds them too.
            assert torch.equal(source.read(name).float(), value)
    files = {path.name for path in (tmp_path / "vector").glob("*.safetensors")}
    assert vector.digests().keys() == files
    assert len(files) == (2 if largest == "1B" else 1)


def test_a_vector_is_no_model(tmp_path: Path) -> None:
    save(tmp_path / "vector")
    assert not list((tmp_path / "vector").glob("model*"))
    with pytest.raises(UserError, match="no tokenizer"):
        open_vector(tmp_path / "vector").vocabulary()


def test_an_attempt_that_failed_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    wrong = {NAME: torch.zeros(2, 2), OTHER: torch.tensor([1.0, torch.inf])}
    weights = [TensorSpec(name, torch.float32, tuple(value.shape)) for name, value in wrong.items()]
    with pytest.raises(UserError, match=r"'norm\.weight' holds NaN or infinity"):
        write_vector(tmp_path / "vector", weights, wrong.__getitem__, DESCRIPTION, "1B")
    assert not (tmp_path / "vector").exists()
    save(tmp_path / "vector", largest="1B")
    assert torch.equal(open_vector(tmp_path / "vector").read(NAME), DIFFERENCES[NAME])


def test_differences_too_large_for_their_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="as torch.float16"):
        write_vector(
            tmp_path / "vector", [TensorSpec("a", torch.float16, (1,))], lambda _: torch.tensor([1e6]), DESCRIPTION
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no vector\.json"),
        ("{", "no JSON"),
        ("[]", "does not describe a vector"),
        (json.dumps({"version": 2}), "version 1"),
        (json.dumps({"version": 1, "plus": "a"}), r"has the entries \['plus'\]"),
    ],
)
def test_what_is_no_vector_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    save(tmp_path / "vector")
    path = tmp_path / "vector" / "vector.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        open_vector(tmp_path / "vector")
