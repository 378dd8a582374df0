import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models import log_prob_cache
from lit_vlm.models.log_prob_cache import LogProbCache, ModelName

MODEL = ModelName("tiny", "ab" * 16)
FIRST, SECOND, OTHER = "00ff" * 8, "11ee" * 8, "22dd" * 8


@pytest.fixture
def saved(tmp_path):
    """A file with two completions."""
    cache = LogProbCache(tmp_path / "folder" / "cache.safetensors", {SECOND: -2.5, FIRST: -1.25})
    cache.save(MODEL)
    return cache


def test_a_file_gives_back_what_was_saved(saved):
    found = LogProbCache.load(saved.file, MODEL)
    assert found.sums == saved.sums
    values = found.look_up([SECOND, FIRST, SECOND])
    assert values.dtype == torch.float32
    assert values.tolist() == [-2.5, -1.25, -2.5]


def test_no_completions_are_found_at_once(saved):
    assert saved.look_up([]).shape == (0,)


def test_nothing_saved_is_a_file_too(tmp_path):
    LogProbCache(tmp_path / "cache", {}).save(MODEL)
    assert LogProbCache.load(tmp_path / "cache", MODEL).sums == {}


def test_missing_completions_are_counted(saved):
    assert saved.count_missing([(FIRST, SECOND), (FIRST, OTHER), (OTHER,)]) == 2
    with pytest.raises(UserError, match=r"cache\.safetensors lacks .* of 1 of 2 completions: the data, the chat templ"):
        saved.look_up([FIRST, OTHER])


def test_another_model_is_refused_by_name(saved):
    with pytest.raises(UserError, match=r"cache\.safetensors was made with other weights \(tiny, fingerprint abababab"):
        LogProbCache.load(saved.file, ModelName("large", "cd" * 16))


def test_other_files_are_refused(tmp_path, saved):
    (tmp_path / "text").write_text("no tensors at all")
    with pytest.raises(UserError, match=r"text cannot be read .* delete the file"):
        LogProbCache.load(tmp_path / "text", MODEL)
    with pytest.raises(UserError, match=r"absent cannot be read"):
        LogProbCache.load(tmp_path / "absent", MODEL)
    log_prob_cache.save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors holds no log-probabilities"):
        LogProbCache.load(tmp_path / "model.safetensors", MODEL)


def test_a_fault_while_writing_leaves_the_old_file(saved, monkeypatch):
    before = saved.file.read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(log_prob_cache, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        saved.save(MODEL)
    assert saved.file.read_bytes() == before
    assert [file.name for file in saved.file.parent.iterdir()] == [saved.file.name]
