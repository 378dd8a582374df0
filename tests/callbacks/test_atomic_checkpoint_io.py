import errno

import pytest
import torch

from lit_vlm.callbacks import atomic_checkpoint_io
from lit_vlm.callbacks.atomic_checkpoint_io import AtomicCheckpointIO, refuse_broken, remove
from lit_vlm.functional.checkpoint_files import mark_whole
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def plugin():
    return AtomicCheckpointIO()


def test_what_was_saved_is_loaded(plugin, tmp_path):
    plugin.save_checkpoint({"a": torch.ones(2)}, tmp_path / "step=1.ckpt")
    # Code is not loaded, whatever is asked for.
    loaded = plugin.load_checkpoint(tmp_path / "step=1.ckpt", weights_only=False)
    assert torch.equal(loaded["a"], torch.ones(2))
    plugin.remove_checkpoint(tmp_path / "step=1.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_code_in_a_checkpoint_never_runs(plugin, tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, ("raise RuntimeError('it ran')",)

    torch.save({"a": Evil()}, tmp_path / "evil.ckpt")
    for weights_only in (None, True, False):
        with pytest.raises(UserError, match="would run code while they are loaded, which is refused"):
            plugin.load_checkpoint(tmp_path / "evil.ckpt", weights_only=weights_only)


def test_a_broken_file_is_refused_and_the_newest_whole_one_named(plugin, tmp_path):
    for step in (1, 2, 3):
        plugin.save_checkpoint({"a": step}, tmp_path / f"step={step}.ckpt")
    (tmp_path / "step=3.ckpt").write_bytes((tmp_path / "step=3.ckpt").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"step=3.ckpt' is no checkpoint, or was cut short; the newest.* is .*step=2"):
        plugin.load_checkpoint(tmp_path / "step=3.ckpt")
    (tmp_path / "step=1.ckpt").unlink()
    (tmp_path / "step=2.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="there is no whole one beside it"):
        refuse_broken(tmp_path / "step=3.ckpt")


def test_shards_are_left_to_strategies_that_read_them(plugin, tmp_path):
    (tmp_path / "step=1.ckpt").mkdir()
    (tmp_path / "step=1.ckpt" / "__0_0.distcp").write_bytes(b"x")
    mark_whole(tmp_path / "step=1.ckpt")
    with pytest.raises(UserError, match=r"lies in shards, .*; give trainer\.strategy fsdp2"):
        plugin.load_checkpoint(tmp_path / "step=1.ckpt")


def test_faults_of_writing_are_told_or_kept(plugin, tmp_path, monkeypatch):
    plugin.save_checkpoint({"a": 1}, tmp_path / "step=1.ckpt")

    def fail(checkpoint, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_checkpoint_io, "write_checkpoint", fail)
    told = "step=2.ckpt could not be written: No space left on device; .*the last good checkpoint is .*step=1.ckpt"
    with pytest.raises(UserError, match=told):
        plugin.save_checkpoint({"a": 2}, tmp_path / "step=2.ckpt")
    with plugin.keeping_faults() as faults:
        plugin.save_checkpoint({"a": 2}, tmp_path / "step=2.ckpt")
    assert len(faults) == 1
    with pytest.raises(UserError, match="No space left"):
        plugin.save_checkpoint({"a": 2}, tmp_path / "step=2.ckpt")


def test_folders_go_whole(tmp_path):
    folder = tmp_path / "step=1.ckpt"
    folder.mkdir()
    (folder / ".metadata").touch()
    mark_whole(folder)
    remove(folder)
    assert list(tmp_path.iterdir()) == []
    remove(folder)
