import os

import pytest
import torch

from lit_vlm.functional.checkpoint_files import mark_whole, write_checkpoint
from lit_vlm.functional.checkpoint_search import checkpoints_of, newest_beside, newest_whole, step_of
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def save(tmp_path):
    def write(version, name, step=0):
        path = tmp_path / "run" / version / "checkpoints" / name
        write_checkpoint({"global_step": step, "weights": torch.zeros(2)}, path)
        return path

    return write


def test_the_highest_version_and_step_come_first(save, tmp_path):
    old = save("version_2", "step=9.ckpt")
    first = save("version_10", "step=3.ckpt")
    second = save("version_10", "step=00000012.ckpt")
    (tmp_path / "run" / "version_11").mkdir()
    (second.parent / ".step=14.ckpt.partial").write_bytes(b"half")
    # Times do not count, since copying changes them.
    os.utime(second, (0, 0))
    assert list(checkpoints_of(tmp_path / "run")) == [second, first, old]
    assert newest_whole(tmp_path / "run") == second
    assert newest_whole(tmp_path / "run" / "version_2") == old
    assert newest_beside(second) == first
    assert newest_beside(old) is None


def test_broken_ones_are_passed_by_and_named(save, tmp_path, caplog):
    good = save("version_0", "step=1.ckpt")
    for version, name in (("version_0", "step=2.ckpt"), ("version_1", "step=3.ckpt")):
        path = save(version, name)
        path.write_bytes(path.read_bytes()[:-7])
    assert newest_whole(tmp_path / "run") == good
    assert "step=3.ckpt is no checkpoint, or was cut short" in caplog.text
    good.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint in .* is whole: .*step=3.ckpt is no.*step=1.ckpt is no"):
        newest_whole(tmp_path / "run")


def test_steps_are_read_where_names_do_not_tell(save, tmp_path):
    last, other = save("version_0", "last.ckpt", step=7), save("version_0", "epoch=1-step=5.ckpt", step=5)
    assert (step_of(last), step_of(other)) == (7, 5)
    assert newest_whole(tmp_path / "run") == last


def test_folders_count_when_they_are_marked(save, tmp_path):
    good = save("version_0", "step=1.ckpt")
    folder = good.with_name("step=2.ckpt")
    folder.mkdir()
    (folder / ".metadata").touch()
    assert newest_whole(tmp_path / "run") == good
    mark_whole(folder)
    assert newest_whole(tmp_path / "run") == folder


@pytest.mark.parametrize("made", [False, True])
def test_nothing_is_told(tmp_path, made):
    if made:
        (tmp_path / "run" / "version_0").mkdir(parents=True)
    with pytest.raises(UserError, match="there is no checkpoint in .*run.*leave --ckpt_path out to begin anew"):
        newest_whole(tmp_path / "run")
