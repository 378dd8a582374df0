import math

import pytest
import torch

from lit_vlm.functional.kl_estimators import kl_estimate
from lit_vlm.interfaces.errors import UserError

# The card's Check, computed in float64.
LOG_PROBS = torch.tensor([-1, -0.5, -2, -0.1], dtype=torch.float64)
REFERENCE = torch.tensor([-1.1, -0.4, -1.8, -0.2], dtype=torch.float64)
K3_GRADIENT = [0.095163, -0.105171, -0.221403, 0.095163]


def gradient(estimator, log_probs=LOG_PROBS, reference=REFERENCE, **more):
    leaf = log_probs.clone().requires_grad_()
    kl_estimate(leaf, reference, estimator, **more).sum().backward()
    return leaf.grad


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.1, -0.1, -0.2, 0.1]),
        ("k2", [0.005, 0.005, 0.02, 0.005]),
        ("k3", [0.004837, 0.005171, 0.021403, 0.004837]),
        ("abs", [0.1, 0.1, 0.2, 0.1]),
        ("k1+", [0.1, -0.1, -0.2, 0.1]),
        ("k3+", [0.004837, 0.005171, 0.021403, 0.004837]),
    ],
)
def test_the_check_of_the_card_is_reproduced(estimator, expected):
    assert kl_estimate(LOG_PROBS, REFERENCE, estimator).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [1, 1, 1, 1]),
        ("k2", [0.1, -0.1, -0.2, 0.1]),
        ("k3", K3_GRADIENT),
        ("abs", [1, -1, -1, 1]),
        # Straight through: the gradient of k2.
        ("k1+", [0.1, -0.1, -0.2, 0.1]),
        ("k3+", [0.1, -0.1, -0.2, 0.1]),
    ],
)
def test_gradients_are_those_of_the_closed_forms(estimator, expected):
    assert gradient(estimator).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_gradients_are_those_of_finite_differences(estimator):
    leaf = LOG_PROBS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: kl_estimate(value, REFERENCE, estimator), (leaf,))


def exact_divergence(logits, reference):
    log_probs = logits.log_softmax(0)
    return (log_probs.exp() * (log_probs - reference)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_unbiased_estimates_have_the_divergence_as_their_mean(estimator):
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    log_probs, reference = logits.log_softmax(0), other.log_softmax(0)
    mean = (log_probs.exp() * kl_estimate(log_probs, reference, estimator)).sum()
    assert mean.item() == pytest.approx(exact_divergence(logits, reference).item())


@pytest.mark.parametrize(
    ("estimator", "is_right"), [("k1", False), ("k2", True), ("k3", False), ("k1+", True), ("k3+", True)]
)
def test_only_the_gradient_of_k2_is_that_of_the_divergence(estimator, is_right):
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    reference = other.log_softmax(0)
    logits.requires_grad_()
    (wanted,) = torch.autograd.grad(exact_divergence(logits, reference), logits)
    log_probs = logits.log_softmax(0)
    estimated = (log_probs.exp().detach() * kl_estimate(log_probs, reference, estimator)).sum()
    (found,) = torch.autograd.grad(estimated, logits)
    assert torch.allclose(found, wanted) == is_right


def test_k3_is_never_negative_and_exact_for_small_differences():
    difference = torch.logspace(-12, 1, 50, dtype=torch.float32)
    for sign in (1, -1):
        # Beside -exp(1e-7) - 1e-7 - 1, which rounds to -1e-7 or so.
        estimates = kl_estimate(torch.zeros(50), sign * difference, "k3")
        assert (estimates >= 0).all()


def test_a_huge_difference_stays_finite_with_a_bound():
    log_probs = torch.tensor([-1000.0, -0.1], requires_grad=True)
    reference = torch.tensor([-0.1, -1000.0])
    assert kl_estimate(log_probs, reference, "k3")[0].item() == math.inf
    bounded = kl_estimate(log_probs, reference, "k3", largest_log_ratio=20.0)
    bounded.sum().backward()
    assert bounded.tolist() == pytest.approx([math.exp(20) - 21, 998.9], rel=1e-5)
    # Beyond the bound there is no pull; on the other side, which cannot overflow, it stays.
    assert log_probs.grad.tolist() == [0, 1]


def test_an_unknown_estimator_is_named():
    with pytest.raises(UserError, match=r"estimator is 'k4'; it must be one of k1, k2, k3, abs, k1\+, k3\+"):
        kl_estimate(LOG_PROBS, REFERENCE, "k4")
