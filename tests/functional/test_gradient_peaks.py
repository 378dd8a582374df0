import pytest
import torch

from lit_vlm.functional.gradient_peaks import gradient_peaks, spoilt_weights


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows_wherever_it_stands(kind, bad):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, bias=False)).to(kind)
    assert gradient_peaks(module)[0] == []
    for value in module.parameters():
        value.grad = torch.full_like(value, -2.0)
    module[0].weight.grad[1, 2] = bad
    module[1].weight.grad = None
    names, peaks = gradient_peaks(module)
    assert names == ["0.weight", "0.bias"]
    assert peaks.isfinite().tolist() == [False, True]
    assert float(peaks[1]) == 2.0


def test_large_gradients_do_not_overflow():
    module = torch.nn.Linear(64, 64)
    module.weight.grad = torch.full_like(module.weight, 3e38)
    assert gradient_peaks(module)[1].isfinite().all()


def test_spoilt_weights_are_those_that_train():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight[0, 0] = torch.nan
        module[1].bias[1] = torch.inf
    assert spoilt_weights(module) == ("0.weight", "1.bias")
    module[0].requires_grad_(False)
    assert spoilt_weights(module) == ("1.bias",)
