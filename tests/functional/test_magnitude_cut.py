import pytest
import torch
from torch import Tensor

from lit_vlm.functional.magnitude_cut import kept_largest, magnitude_cut
from lit_vlm.functional.task_vectors import PIECE, spans


def kept(numbers: Tensor, count: int, left_out: int = 0) -> Tensor:
    pieces = kept_largest(numbers, count, left_out=left_out)
    return torch.cat([pieces(start, stop) for start, stop in spans(numbers.numel())]).view(numbers.shape)


def by_sorting(numbers: Tensor, count: int, left_out: int = 0) -> Tensor:
    order = numbers.abs().view(-1).sort(descending=True, stable=True).indices[left_out : left_out + count]
    mask = torch.zeros(numbers.numel())
    mask[order] = 1
    return numbers * mask.view(numbers.shape)


def test_the_largest_magnitudes_stay():
    assert kept(torch.tensor([1.0, -0.5, 0.1, 0.3]), 2).tolist() == [1.0, -0.5, 0.0, 0.0]


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-42, 1e30])
@pytest.mark.parametrize("count", [0, 1, 2, 499, 500, 999, 1000])
def test_it_is_what_sorting_gives(count: int, scale: float):
    numbers = torch.randn(20, 50, generator=torch.Generator().manual_seed(count)) * scale
    assert torch.equal(kept(numbers, count), by_sorting(numbers, count))


@pytest.mark.parametrize(("count", "left_out"), [(300, 10), (990, 10), (1, 999), (500, 500)])
def test_the_very_largest_can_be_left_out(count: int, left_out: int):
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(kept(numbers, count, left_out), by_sorting(numbers, count, left_out))


@pytest.mark.parametrize("count", [1, 700, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_of_equal_magnitudes_the_first_stay_across_pieces(count: int):
    numbers = torch.ones(2 * PIECE + 3)
    numbers[::2] *= -1
    assert torch.equal(kept(numbers, count).abs().nonzero().view(-1), torch.arange(count))


def test_ties_among_others_are_counted_exactly():
    numbers = torch.randint(-4, 5, (5000,), generator=torch.Generator().manual_seed(2)).float()
    for count in range(0, 5001, 250):
        assert torch.equal(kept(numbers, count), by_sorting(numbers, count))
        assert int(magnitude_cut(numbers, count).keeps(numbers, 0).sum()) == count


def test_infinite_numbers_are_the_largest():
    assert kept(torch.tensor([1.0, -torch.inf, 2.0]), 2).tolist() == [0.0, -torch.inf, 2.0]


def test_no_numbers_at_all():
    assert kept_largest(torch.zeros(0), 0)(0, 0).tolist() == []


def test_the_tensor_stays_as_it_is():
    numbers = torch.tensor([1.0, 2.0, 3.0])
    kept(numbers, 1)
    assert numbers.tolist() == [1.0, 2.0, 3.0]
