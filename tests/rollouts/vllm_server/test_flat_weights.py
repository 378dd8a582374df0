import json

import pytest
import torch

from lit_vlm.rollouts.vllm_server.flat_weights import describe_weights, flat_size, pack_weights, unpack_weights

CPU = torch.device("cpu")


def test_weights_come_out_as_they_went_in():
    tensors = {
        "bias": torch.randn(3).bfloat16(),
        "counter": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "turned": torch.randn(5, 2).T,
        "byte": torch.tensor([1], dtype=torch.uint8),
        "exact": torch.randn(2, 2, dtype=torch.float64),
    }
    described = json.loads(json.dumps(describe_weights(tensors)))
    flat = pack_weights(tensors, CPU)
    # 6, 8, 0, 40, 1 and 32 bytes, each rounded up to a multiple of 16.
    assert flat.shape == (flat_size(described),) == (16 + 16 + 0 + 48 + 16 + 32,)
    found = dict(unpack_weights(flat, described))
    flat.zero_()
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_no_weights_take_no_bytes():
    assert pack_weights({}, CPU).shape == (0,)
    assert list(unpack_weights(torch.zeros(0, dtype=torch.uint8), [])) == []


@pytest.mark.parametrize(
    ("described", "told"),
    [
        (["a", "Tensor", [1]], "a is of type Tensor, which torch does not have"),
        (["a", "no_such", [1]], "type no_such"),
        (["a", "float32", [-1]], r"a has the shape \[-1\]"),
        (["a", "float32", ["1"]], "shape"),
    ],
)
def test_what_describes_no_weight_is_refused(described, told):
    with pytest.raises(ValueError, match=told):
        flat_size([described])
