import torch
from torch import nn

from lit_vlm.functional.gradient_directions import biased_gradient
from lit_vlm.gradients.attached_bias import AttachedBias, BiasedWeight
from lit_vlm.gradients.weight_pieces import piece_of
from lit_vlm.interfaces.weights import LowRankFactors


def weight(alpha=1.0, name="w", gradient=(3.0, 4.0), direction=(0.0, 2.0)):
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor(gradient)
    return BiasedWeight(name, parameter, piece_of(parameter, None), torch.tensor(direction), alpha)


def test_each_weight_has_its_own_strength():
    weights = [weight(1.0, "a"), weight(0.5, "b")]
    attached = AttachedBias(weights, "gradnorm")
    assert attached.acts_on == ["a", "b"]
    attached({})
    # 4 - 5 and 4 - 2.5.
    assert [held.trained.grad.tolist() for held in weights] == [[3.0, -1.0], [3.0, 1.5]]


def test_gradients_are_changed_in_place():
    held = weight()
    gradient = held.trained.grad
    AttachedBias([held], "adaptive_cosine")({})
    assert held.trained.grad is gradient
    assert gradient.tolist() == [3.0, -0.5]


def test_figures_leave_out_gradients_that_are_zero():
    figures = AttachedBias([weight(), weight(gradient=(0.0, 0.0))], "adaptive_cosine")({})
    assert figures["tensors"] == 1
    assert torch.isclose(figures["cosine"], torch.tensor(0.8))
    assert torch.isclose(figures["push"], torch.tensor(0.9))


def test_without_weights_there_are_figures_all_the_same():
    assert AttachedBias([], "absolute")({}) == {"cosine": 0, "tensors": 0, "push": 0}


def test_a_gradient_that_is_no_number_stays_none():
    held = weight(gradient=(float("nan"), 1.0))
    AttachedBias([held], "adaptive_cosine")({})
    assert not held.trained.grad.isfinite().all()


def test_an_adapter_is_biased_factor_by_factor_with_the_numbers_of_the_card():
    factors = LowRankFactors(
        nn.Parameter(torch.tensor([[1.0, 2.0, 0.0]])), nn.Parameter(torch.tensor([[0.5], [1.0]])), 2.0
    )
    factors.inner.grad, factors.outer.grad = torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[0.3], [0.4]])
    wanted_inner = biased_gradient(factors.inner.grad, torch.tensor([[0.1, 0.6, 0.4]]), 1.0)
    wanted_outer = biased_gradient(factors.outer.grad, torch.tensor([[0.2], [1.2]]), 1.0)
    delta = torch.tensor([[0.1, 0.0, 0.2], [0.0, 0.3, 0.1]])
    AttachedBias([BiasedWeight("w", factors, piece_of(factors.outer, None), delta, 1.0)], "adaptive_cosine")({})
    torch.testing.assert_close(factors.inner.grad, wanted_inner)
    torch.testing.assert_close(factors.outer.grad, wanted_outer)
