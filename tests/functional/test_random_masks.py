import pytest
import torch
from torch import Tensor

from lit_vlm.functional.random_masks import kept_at_random, kept_by_rank
from lit_vlm.functional.task_vectors import PIECE, spans


def dropped(numbers: Tensor, density: float, seed: int) -> Tensor:
    pieces = kept_at_random(numbers, density, seed)
    return torch.cat([pieces(start, stop) for start, stop in spans(numbers.numel())]).view(numbers.shape)


def test_a_mask_depends_on_its_seed_alone():
    ones = torch.ones(PIECE + 100)
    assert torch.equal(dropped(ones, 0.3, 5), dropped(-ones, 0.3, 5).neg())
    assert not torch.equal(dropped(ones, 0.3, 5), dropped(ones, 0.3, 6))
    pieces = kept_at_random(ones, 0.3, 5)
    assert torch.equal(pieces(PIECE, PIECE + 100), dropped(ones, 0.3, 5)[PIECE:])


def test_a_mask_is_the_same_on_every_machine():
    assert dropped(torch.ones(12), 0.5, 3).tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_density_is_the_share_that_stays_in_every_piece(density: float):
    shares = dropped(torch.ones(3 * PIECE), density, 1).view(3, PIECE).mean(1)
    assert (shares - density).abs().max() < 5 * (density * (1 - density) / PIECE) ** 0.5


def test_pieces_are_independent_of_each_other():
    first, second = dropped(torch.ones(2 * PIECE), 0.5, 1).view(2, PIECE)
    assert abs((first == second).float().mean().item() - 0.5) < 0.01


def test_density_1_and_0():
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropped(numbers, 1.0, 0), numbers)
    assert not dropped(numbers, 0.0, 0).any()


def test_the_probability_rises_with_the_rank():
    # Ranks 0 to 4 in a shuffled row: probabilities 0.3, 0.4, 0.5, 0.6, 0.7.
    row = torch.tensor([0.3, -0.1, 0.5, 0.2, -0.4]).repeat(40_000, 1)
    share = (kept_by_rank(row, 0.5, 0.2, 1, inverse_probability=False) != 0).double().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.7, 0.4, 0.6]).double(), atol=0.015, rtol=0)


def test_dividing_by_the_probability_keeps_the_expectation():
    row = torch.tensor([0.3, -0.1, 0.5, 0.2, -0.4])
    mean = kept_by_rank(row.repeat(100_000, 1), 0.5, 0.2, 1, inverse_probability=True).mean(0)
    torch.testing.assert_close(mean, row, atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 1), (3, 4, 5), (2, 0)])
def test_any_shape_stays_finite(shape: tuple[int, ...]):
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    got = kept_by_rank(numbers, 0.5, 0.3, 4, inverse_probability=False)
    assert got.shape == numbers.shape
    assert bool(((got == numbers) | (got == 0)).all())


def test_rows_of_one_number_stay_with_the_density():
    got = kept_by_rank(torch.ones(40_000, 1), 0.3, 0.1, 4, inverse_probability=False)
    assert abs(got.mean().item() - 0.3) < 0.015


def test_of_equal_magnitudes_the_first_has_the_lowest_rank():
    share = (kept_by_rank(torch.ones(40_000, 2), 0.5, 0.4, 1, inverse_probability=False) != 0).double().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.1, 0.9]).double(), atol=0.015, rtol=0)


def test_epsilon_0_is_one_probability_for_all():
    share = (kept_by_rank(torch.rand(400, 100), 0.25, 0.0, 1, inverse_probability=False) != 0).double().mean()
    assert abs(share.item() - 0.25) < 0.015


def test_what_is_given_stays_as_it_is():
    numbers = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    before = numbers.clone()
    kept_by_rank(numbers, 0.5, 0.2, 1, inverse_probability=True)
    kept_by_rank(numbers.T, 0.5, 0.2, 1, inverse_probability=True)
    assert torch.equal(numbers, before)
