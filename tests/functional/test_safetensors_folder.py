"""Folders of safetensors: reading one tensor at a time, and what is refused."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_vlm.functional.safetensors_folder import SafetensorsFolder, stored_tensors
from lit_vlm.interfaces.errors import UserError

WEIGHTS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.arange(4, dtype=torch.bfloat16),
    "scalar": torch.tensor(3.5, dtype=torch.float16),
    "none": torch.zeros(0, 2),
    "yes": torch.tensor([True, False]),
    "eight": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
}


def write_shards(folder: Path, shards: Mapping[str, Mapping[str, Tensor]], **index: str) -> None:
    places = {name: file for file, shard in shards.items() for name in shard}
    for file, shard in shards.items():
        save_file(dict(shard), folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places | index}))


SINGLE = "model.safetensors"
TWO = {"one.safetensors": {"b": WEIGHTS["b"]}, "two.safetensors": {"a": WEIGHTS["a"], "scalar": WEIGHTS["scalar"]}}


def test_a_single_file_is_read_bit_for_bit(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    folder = SafetensorsFolder(tmp_path)
    assert set(folder.names) == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        stored, found = folder.stored(name), folder.read(name)
        assert (stored.dtype, stored.shape) == (value.dtype, tuple(value.shape)) == (found.dtype, tuple(found.shape))
        assert torch.equal(found.float(), value.float())


def test_shards_are_read_in_their_order(tmp_path: Path) -> None:
    write_shards(tmp_path, TWO)
    folder = SafetensorsFolder(tmp_path)
    assert folder.names[0] == "b"
    assert set(folder.names) == {"a", "b", "scalar"}
    assert folder.files == ["one.safetensors", "two.safetensors"]
    assert torch.equal(folder.read("a"), WEIGHTS["a"])


def open_files(folder: Path) -> list[str]:
    """Names the files of a folder that this process has open."""
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    found = [link.resolve() for link in links if link.is_symlink()]
    return sorted(path.name for path in found if path.parent == folder)


def test_one_file_at_most_is_open_and_none_afterwards(tmp_path: Path) -> None:
    write_shards(tmp_path, TWO)
    folder = SafetensorsFolder(tmp_path)
    with folder.opened(), folder.opened():
        folder.read("b")
        assert open_files(tmp_path) == ["one.safetensors"]
        folder.read("a")
        folder.read("scalar")
        assert open_files(tmp_path) == ["two.safetensors"]
    assert not open_files(tmp_path)
    folder.read("b")
    assert not open_files(tmp_path)


def test_a_file_stays_open_while_its_pieces_are_wanted(tmp_path: Path) -> None:
    write_shards(tmp_path, TWO)
    folder = SafetensorsFolder(tmp_path)
    with folder.opened():
        first, second = folder.pieces("b"), folder.pieces("a")
        assert open_files(tmp_path) == ["one.safetensors", "two.safetensors"]
        count = WEIGHTS["b"].numel()
        assert torch.equal(first(0, count), WEIGHTS["b"].flatten())
        del first
        assert open_files(tmp_path) == ["two.safetensors"]
    assert torch.equal(second(0, 1), WEIGHTS["a"].flatten()[:1])
    del second
    assert not open_files(tmp_path)


def test_pieces_of_many_threads_are_those_of_the_whole(tmp_path: Path) -> None:
    numbers = torch.arange(5000, dtype=torch.float32).view(50, 100)
    save_file({"before": torch.zeros(7), "a": numbers, "half": numbers.to(torch.bfloat16)}, tmp_path / SINGLE)
    folder = SafetensorsFolder(tmp_path)
    for name, whole in (("a", numbers), ("half", numbers.to(torch.bfloat16))):
        pieces = folder.pieces(name)
        starts = list(range(0, 5000, 17))
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda start, pieces=pieces: pieces(start, min(start + 17, 5000)), starts))
        assert found[0].dtype == whole.dtype
        assert torch.equal(torch.cat(found), whole.flatten())


def test_each_piece_is_nobody_elses(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / SINGLE)
    pieces = SafetensorsFolder(tmp_path).pieces("a")
    pieces(0, 4).add_(1)
    assert pieces(0, 4).tolist() == [0.0] * 4


def test_what_was_read_is_not_tied_to_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "model.safetensors")
    value = SafetensorsFolder(tmp_path).read("a")
    value += 1
    (tmp_path / "model.safetensors").unlink()
    assert value.tolist() == [1.0] * 4


def test_digests_are_those_of_the_files_and_counted_once(tmp_path: Path) -> None:
    write_shards(tmp_path, TWO)
    folder = SafetensorsFolder(tmp_path)
    digests = folder.digests()
    content = (tmp_path / "one.safetensors").read_bytes()
    assert digests["one.safetensors"] == hashlib.sha256(content).hexdigest()
    (tmp_path / "one.safetensors").unlink()
    assert folder.digests() == digests


def test_another_stem_and_metadata(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors", metadata={"made": "here"})
    folder = SafetensorsFolder(tmp_path, stem="adapter_model")
    assert folder.stored("a").metadata == {"made": "here"}


def test_a_shard_that_is_absent_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, TWO)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(UserError, match=r"index\.json names 'two\.safetensors', which is not there"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("file", ["one.safetensors", "two.safetensors"])
def test_a_weight_that_its_shard_does_not_hold_is_named(tmp_path: Path, file: str) -> None:
    write_shards(tmp_path, TWO, lost=file)
    with pytest.raises(UserError, match="says that .* holds the weight 'lost', and it does not"):
        SafetensorsFolder(tmp_path)


def test_a_weight_in_another_shard_than_the_index_says_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, TWO, a="one.safetensors")
    with pytest.raises(UserError, match="holds the weight 'a'"):
        SafetensorsFolder(tmp_path)


def test_a_weight_in_two_shards_is_named(tmp_path: Path) -> None:
    both = {"one.safetensors": {"a": WEIGHTS["a"], "b": WEIGHTS["b"]}, "two.safetensors": {"b": WEIGHTS["b"]}}
    write_shards(tmp_path, both)
    with pytest.raises(UserError, match=r"one\.safetensors and two\.safetensors both hold the weight 'b'"):
        SafetensorsFolder(tmp_path)


def test_a_name_twice_in_the_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "a": "y"}}')
    with pytest.raises(UserError, match="names 'a' twice"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "{"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json"):
        SafetensorsFolder(tmp_path)


def test_the_index_leads_nowhere_else(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(UserError, match="lie beside its index"):
        SafetensorsFolder(inner)


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_file_cut_short_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="damaged or cut short"):
        SafetensorsFolder(tmp_path)


def test_a_file_cut_short_while_it_is_in_use_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    folder = SafetensorsFolder(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="while it was read"):
        folder.read("a")
    with pytest.raises(UserError, match="while it was read"):
        folder.pieces("a")(90, 100)


def test_pickled_weights_are_to_be_converted_first(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(UserError, match=r"but pytorch_model\.bin; .* convert it first"):
        SafetensorsFolder(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        SafetensorsFolder(tmp_path)


def test_a_type_that_torch_lacks_is_named(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(UserError, match="'a' is of type F8_E8M0"):
        stored_tensors(path)
