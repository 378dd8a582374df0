import pytest
import torch

from lit_vlm.functional.bradley_terry import fit_bradley_terry
from tests.functional.threads_as_ranks import run_as_ranks


def pairs(count=400, width=4, seed=0):
    """Differences of features, turned the way that a known reward with noise prefers, and that reward."""
    generator = torch.Generator().manual_seed(seed)
    differences = torch.randn(count, width, generator=generator, dtype=torch.float64)
    theta = torch.tensor([2.0, -1.0, 0.5, 0.0], dtype=torch.float64)[:width]
    prefers = torch.rand(count, generator=generator) < torch.sigmoid(differences @ theta)
    return torch.where(prefers[:, None], differences, -differences), theta


def fit(differences, weights=None, ridge=1e-3, sum_over_ranks=lambda value: value):
    weights = torch.ones(len(differences)) if weights is None else weights
    return fit_bradley_terry(differences, weights, ridge, sum_over_ranks)


def test_one_pair_is_solved_as_by_hand():
    # d/dt: sigmoid(-t) = ridge * t; with ridge = sigmoid(-1) = 0.268941 the solution is 1.
    ridge = torch.sigmoid(torch.tensor(-1.0, dtype=torch.float64)).item()
    assert fit(torch.ones(1, 1), ridge=ridge).item() == pytest.approx(1.0, abs=1e-6)


def test_a_known_reward_is_found_again():
    differences, theta = pairs(8000)
    torch.testing.assert_close(fit(differences), theta, atol=0.15, rtol=0)


def test_the_gradient_vanishes_at_the_fit():
    differences, _ = pairs()
    theta = fit(differences, ridge=0.5).requires_grad_()
    loss = -torch.nn.functional.logsigmoid(differences @ theta).sum() + 0.25 * theta.square().sum()
    (slope,) = torch.autograd.grad(loss, theta)
    assert slope.abs().max() < 1e-3
    assert not fit(differences.requires_grad_()).requires_grad


def test_a_weight_of_two_is_a_pair_that_comes_twice():
    differences, _ = pairs(50)
    weights = torch.ones(50)
    weights[:5] = 2
    torch.testing.assert_close(fit(differences, weights), fit(torch.cat([differences, differences[:5]])))


def test_pairs_that_a_plane_parts_still_have_an_end():
    theta = fit(100 * torch.ones(20, 2), ridge=1e-6)
    assert theta.isfinite().all()
    assert (theta > 0).all()


def test_no_pair_gives_no_reward():
    assert fit(torch.zeros(0, 3)).tolist() == [0, 0, 0]


def test_ranks_with_unequal_shares_of_the_pairs_agree_with_one_that_has_all():
    differences, _ = pairs(60)
    expected = fit(differences)
    found = run_as_ranks(
        lambda ranks: fit(differences[:20], sum_over_ranks=ranks),
        lambda ranks: fit(differences[20:], sum_over_ranks=ranks),
    )
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], expected)
