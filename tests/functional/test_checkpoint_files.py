import errno
import json
import zipfile

import pytest
import torch

from lit_vlm.functional import checkpoint_files
from lit_vlm.functional.checkpoint_files import (
    fault_of,
    is_checkpoint_folder,
    mark_whole,
    read_checkpoint,
    unmark_whole,
    write_checkpoint,
)
from lit_vlm.interfaces.errors import UserError

STATE = {"weights": torch.arange(6.0).reshape(2, 3), "loops": {"step": 3}, "names": ["a", "b"]}


class FullDisk:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "folder" / "step=3.ckpt"
    write_checkpoint(STATE, path)
    return path


def test_what_was_written_is_read(written):
    assert fault_of(written) is None
    loaded = read_checkpoint(written)
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert loaded["loops"] == {"step": 3}
    assert [path.name for path in written.parent.iterdir()] == ["step=3.ckpt"]
    # Any other program reads it too.
    assert torch.load(written, weights_only=True)["names"] == ["a", "b"]
    assert zipfile.is_zipfile(written)


@pytest.mark.parametrize("left", [0, 1, 100, -1, -40, -100])
def test_a_file_that_was_cut_is_refused(written, left):
    written.write_bytes(written.read_bytes()[:left])
    with pytest.raises(UserError, match=r"step=3\.ckpt is no checkpoint, or was cut short"):
        read_checkpoint(written)


def test_any_changed_byte_is_found(written):
    whole = written.read_bytes()
    for place in range(0, len(whole), 37):
        written.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        checkpoint_files._fault_of_file.cache_clear()
        assert fault_of(written) is not None, place


def test_bytes_at_the_end_are_found(written):
    written.write_bytes(written.read_bytes() + b"\0")
    assert fault_of(written) is not None


def test_a_file_of_another_program_is_verified_by_its_check_sums(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save(STATE, path)
    assert torch.equal(read_checkpoint(path)["weights"], STATE["weights"])
    place = path.read_bytes().index(STATE["weights"].numpy().tobytes())
    data = bytearray(path.read_bytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    assert fault_of(path) == "was altered after it was written"


def test_code_is_not_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    write_checkpoint({"callbacks": Evil()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="would run code while they are loaded"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("room", [0, 100, 1000])
def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(written, monkeypatch, room):
    before = written.read_bytes()
    hashed = checkpoint_files._Hashed
    monkeypatch.setattr(checkpoint_files, "_Hashed", lambda file: hashed(FullDisk(file, room)))
    with pytest.raises(OSError, match="No space left") as raised:
        write_checkpoint({"weights": torch.zeros(1000)}, written)
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in written.parent.iterdir()] == ["step=3.ckpt"]
    assert written.read_bytes() == before


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="pickle|local object|lambda"):
        write_checkpoint({"a": lambda: 0}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_when_it_is_marked_and_all_files_are_there(tmp_path):
    folder = tmp_path / "step=1.ckpt"
    folder.mkdir()
    assert not is_checkpoint_folder(folder)
    assert fault_of(folder) == "is no checkpoint"
    (folder / ".metadata").write_bytes(b"12")
    (folder / "__0_0.distcp").write_bytes(b"12345")
    assert is_checkpoint_folder(folder)
    assert "lacks complete.json" in fault_of(folder)
    mark_whole(folder)
    assert fault_of(folder) is None
    assert json.loads((folder / "complete.json").read_text()) == {".metadata": 2, "__0_0.distcp": 5}
    (folder / "__0_0.distcp").write_bytes(b"123")
    assert "__0_0.distcp is missing or of another size" in fault_of(folder)
    unmark_whole(folder)
    assert "lacks" in fault_of(folder)


def test_what_is_not_there_is_told(tmp_path):
    assert fault_of(tmp_path / "a.ckpt") == "does not exist"
