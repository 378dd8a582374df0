import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint

from lit_vlm.functional.sharded_metadata import check_sharded, is_sharded, read_metadata
from lit_vlm.interfaces.errors import UserError
from tests.test_security import Payload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {"state_dict": {"a": torch.ones(2, 3)}, "optimizer_0": {"param_groups": [{"lr": 0.1}]}}
    with pytest.warns(UserWarning, match="torch.distributed is"):
        distributed_checkpoint.save(state, checkpoint_id=tmp_path / "x", no_dist=True)
    return tmp_path / "x"


def test_a_description_says_what_torch_reads_in_it(folder: Path) -> None:
    with (folder / ".metadata").open("rb") as file:
        expected = pickle.load(file)  # our own
    found = read_metadata(folder)
    assert found.state_dict_metadata == expected.state_dict_metadata
    assert found.storage_data == expected.storage_data
    assert is_sharded(folder)
    assert not is_sharded(folder.parent)
    check_sharded(folder)


def test_a_description_that_would_run_something_is_refused_and_does_not(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (folder / ".metadata").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(UserError, match=r"is refused: it asks for posix\.system"):
        read_metadata(folder)
    assert not trace.exists()


def test_an_entry_that_would_run_something_is_refused_and_does_not(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    described = read_metadata(folder)
    (place,) = [place for index, place in described.storage_data.items() if index.fqn.endswith("lr")]
    torch.save(Payload(trace), folder / "evil.distcp")
    place.relative_path, place.offset, place.length = "evil.distcp", 0, (folder / "evil.distcp").stat().st_size
    (folder / ".metadata").write_bytes(pickle.dumps(described))
    with pytest.raises(UserError, match=r"optimizer_0\.param_groups\.0\.lr is refused, since it .* would run code"):
        check_sharded(folder)
    assert not trace.exists()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/b", 3])
def test_files_elsewhere_are_not_read(folder: Path, path: Any) -> None:
    described = read_metadata(folder)
    next(iter(described.storage_data.values())).relative_path = path
    (folder / ".metadata").write_bytes(pickle.dumps(described))
    with pytest.raises(UserError, match="which does not lie beside it"):
        read_metadata(folder)


def test_a_link_to_a_file_elsewhere_is_not_read(folder: Path, tmp_path: Path) -> None:
    (shard,) = folder.glob("*.distcp")
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="which does not lie beside it"):
        read_metadata(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is refused"), (b"\x80\x04N.", "does not describe"), (pickle.dumps([1]), "does not describe")],
)
def test_what_describes_nothing_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_metadata(folder)


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    (shard,) = folder.glob("*.distcp")
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks '{shard.name}'"):
        read_metadata(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_metadata(folder)
