import pytest
import torch
from safetensors.torch import save_file

from lit_vlm.functional.safetensors_source import SafetensorsSource
from lit_vlm.interfaces.errors import UserError


class Weights(SafetensorsSource):
    label, configuration = "weights", {}

    def vocabulary(self):
        return {}


@pytest.fixture
def tensors():
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def test_it_gives_what_the_files_hold(tmp_path, tensors):
    save_file(tensors, tmp_path / "part.safetensors")
    source = Weights(tmp_path, stem="part")
    assert source.folder == tmp_path
    assert sorted(source.names) == ["a", "b"]
    with source.opened() as opened:
        for name, tensor in tensors.items():
            assert (opened.shape(name), opened.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
            assert torch.equal(opened.read(name), tensor)
            assert torch.equal(opened.pieces(name)(1, 3), tensor.reshape(-1)[1:3])
    assert list(source.digests()) == ["part.safetensors"]


def test_files_of_another_stem_are_not_taken(tmp_path, tensors):
    save_file(tensors, tmp_path / "vector.safetensors")
    with pytest.raises(UserError, match="holds neither model.safetensors"):
        Weights(tmp_path)
