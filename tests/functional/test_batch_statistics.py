import math

import pytest
import torch

from lit_vlm.functional.batch_statistics import batch_moments, whiten
from tests.advantages.material import Ranks, alone


def test_moments_of_the_counted_values():
    values = torch.tensor([[1.0, 2.0, 100.0], [6.0, math.nan, math.inf]])
    moments = batch_moments(values, torch.tensor([[True, True, False], [True, False, False]]), alone)
    assert moments.count.item() == 3
    assert moments.mean.item() == 3
    assert moments.variance.item() == 7


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_a_large_mean_does_not_swallow_the_deviation(offset):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    moments = batch_moments(values, torch.ones(1000, dtype=torch.bool), alone)
    assert moments.mean.item() == pytest.approx(values.mean().item(), rel=1e-12)
    assert moments.variance.item() == pytest.approx(values.var().item(), rel=1e-9)


@pytest.mark.parametrize("value", [0.7, -1234.567, 1e-9, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_values_do_not_vary_whatever_rounding_does(value, dtype):
    values = torch.full((1237,), value, dtype=dtype)
    counted = torch.ones(1237, dtype=torch.bool)
    assert batch_moments(values, counted, alone).variance.item() == 0
    assert (whiten(values, counted, alone) == 0).all()


def test_values_that_differ_in_the_last_digits_do_vary():
    values = torch.tensor([1.0, 1.0 + 1e-5, 1.0 - 1e-5])
    assert batch_moments(values, torch.ones(3, dtype=torch.bool), alone).variance.item() > 0


def test_two_ranks_equal_one():
    values = torch.randn(40, generator=torch.Generator().manual_seed(0))
    counted = torch.arange(40) % 3 > 0

    def work(rows):
        return lambda summed: whiten(values[rows], counted[rows], summed)

    parts = Ranks(3).run(work(slice(0, 5)), work(slice(5, 5)), work(slice(5, 40)))
    whole = whiten(values, counted, alone)
    torch.testing.assert_close(torch.cat(parts), whole)
    assert whole[counted].mean().item() == pytest.approx(0, abs=1e-6)
    assert whole[counted].std().item() == pytest.approx(1, abs=1e-6)
    assert (whole[~counted] == 0).all()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_values_to_vary_give_zeros(count):
    counted = torch.arange(3) < count
    assert (whiten(torch.tensor([5.0, math.nan, math.nan]), counted, alone) == 0).all()
