import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.low_rank import low_rank_pair


def random_matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_the_worked_delta_comes_back_at_rank_two():
    # s·B·A with s = 16/2, A = [[1,0,2],[0,1,-1]] and B = [[1,1],[0,2]]
    inner, outer = torch.tensor([[1.0, 0, 2], [0, 1, -1]]), torch.tensor([[1.0, 1], [0, 2]])
    delta = 16 / 2 * outer @ inner
    torch.testing.assert_close(delta, torch.tensor([[8.0, 8, 8], [0, 16, -16]]))
    pair = low_rank_pair(delta, 2)
    torch.testing.assert_close(pair.outer @ pair.inner, delta, rtol=1e-5, atol=1e-5)
    assert pair.relative_error < 1e-6


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9), (1, 5)])
def test_full_rank_reproduces_the_difference(shape):
    delta = random_matrix(*shape)
    pair = low_rank_pair(delta, min(shape))
    assert float((delta - pair.outer @ pair.inner).norm() / delta.norm()) < 1e-5
    assert pair.relative_error < 1e-5


def test_the_error_is_that_of_the_singular_values_left_out():
    delta = random_matrix(10, 6)
    sizes = torch.linalg.svdvals(delta)
    errors = []
    for rank in range(1, 7):
        errors.append(low_rank_pair(delta, rank).relative_error)
        expected = float(sizes[rank:].norm() / sizes.norm())
        assert errors[-1] == pytest.approx(expected, abs=1e-6)
    assert errors == sorted(errors, reverse=True)


def test_both_factors_have_the_same_singular_values():
    pair = low_rank_pair(random_matrix(10, 6), 3)
    torch.testing.assert_close(torch.linalg.svdvals(pair.outer), torch.linalg.svdvals(pair.inner))


def test_more_rank_than_the_matrix_has_is_filled_with_zeros():
    delta = random_matrix(3, 5)
    pair = low_rank_pair(delta, 8)
    assert pair.inner.shape == (8, 5)
    assert pair.outer.shape == (3, 8)
    assert not pair.inner[3:].any()
    assert not pair.outer[:, 3:].any()
    torch.testing.assert_close(pair.outer @ pair.inner, delta, rtol=1e-5, atol=1e-5)


def test_a_difference_of_zeros_has_no_error():
    pair = low_rank_pair(torch.zeros(4, 3), 2)
    assert pair.relative_error == 0
    assert not pair.inner.any()


def test_the_randomised_method_is_exact_for_what_has_few_directions():
    delta = random_matrix(80, 3) @ random_matrix(3, 60, seed=1)
    exact, quick = low_rank_pair(delta, 3), low_rank_pair(delta, 3, approximate=True)
    assert quick.relative_error < 1e-5
    torch.testing.assert_close(quick.outer @ quick.inner, exact.outer @ exact.inner, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("delta", "rank", "told"),
    [
        (torch.ones(2, 2), 0, "at least 1, not 0"),
        (torch.ones(2, 2, 2), 1, "a matrix, not"),
        (torch.tensor([[1.0, float("nan")]]), 1, "NaN or infinity"),
    ],
)
def test_what_has_no_factors_is_refused(delta, rank, told):
    with pytest.raises(UserError, match=told):
        low_rank_pair(delta, rank)
