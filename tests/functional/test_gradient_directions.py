import math

import pytest
import torch

from lit_vlm.functional.gradient_directions import bias_strength, biased_gradient, factor_directions

MODES = ("absolute", "gradnorm", "adaptive_cosine")


def written_out(g, d, alpha, mode):
    """The rules, number by number."""
    g_norm, d_norm = math.sqrt(sum(x * x for x in g)), math.sqrt(sum(x * x for x in d))
    cosine = sum(x * y for x, y in zip(g, d, strict=True)) / (g_norm * d_norm)
    factor = {
        "absolute": alpha,
        "gradnorm": alpha * g_norm / d_norm,
        "adaptive_cosine": alpha * (1 + cosine) / 2 * g_norm / d_norm,
    }[mode]
    return [x - factor * y for x, y in zip(g, d, strict=True)]


@pytest.mark.parametrize(
    ("mode", "alpha", "wanted"),
    [("adaptive_cosine", 1.0, [3.0, -0.5]), ("gradnorm", 1.0, [3.0, -1.0]), ("absolute", 0.1, [3.0, 3.8])],
)
def test_rules_give_the_numbers_of_the_card(mode, alpha, wanted):
    # |g| = 5, d/|d| = [0, 1], cosine 0.8: adaptive subtracts 0.9 x 5, gradnorm 5, absolute 0.1 x 2.
    torch.testing.assert_close(
        biased_gradient(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), alpha, mode), torch.tensor(wanted)
    )


def test_the_component_along_the_direction_follows_the_identity():
    gradient, direction = torch.tensor([0.3, -0.7, 1.1]), torch.tensor([0.5, 0.2, -0.4])
    unit = direction / direction.norm()
    cosine = gradient @ unit / gradient.norm()
    along = biased_gradient(gradient, direction, 1.0) @ unit
    assert along.item() == pytest.approx(-0.989457, abs=1e-6)
    assert along.item() == pytest.approx((gradient.norm() * (cosine - 1) / 2).item(), abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_rules_agree_with_themselves_written_out(mode, seed):
    generator = torch.Generator().manual_seed(seed)
    gradient, direction = torch.randn(2, 4, 5, generator=generator).unbind()
    wanted = written_out(gradient.flatten().tolist(), direction.flatten().tolist(), 0.7, mode)
    found = biased_gradient(gradient, direction, 0.7, mode)
    assert found.flatten().tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_length_of_the_direction_has_no_effect_but_in_absolute_mode():
    gradient, direction = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 0.5])
    for mode, is_same in (("absolute", False), ("gradnorm", True), ("adaptive_cosine", True)):
        found = [biased_gradient(gradient, length * direction, 1.0, mode) for length in (1.0, 7.0)]
        assert torch.allclose(*found) is is_same


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("zero", ["gradient", "direction"])
def test_where_there_is_no_direction_the_gradient_stays(mode, zero):
    gradient, direction = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])
    gradient, direction = (0 * gradient, direction) if zero == "gradient" else (gradient, 0 * direction)
    assert torch.equal(biased_gradient(gradient, direction, 1.0, mode), gradient)
    strength = bias_strength(gradient, direction, 1.0, mode)
    assert strength.cosine == 0
    assert strength.counts == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_that_is_no_number_stays_none(mode):
    found = biased_gradient(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 1.0]), 1.0, mode)
    assert not found.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_pieces_of_a_weight_are_tilted_as_the_whole(mode):
    generator = torch.Generator().manual_seed(0)
    gradient, direction = torch.randn(2, 6, 3, generator=generator).unbind()
    sums = [
        torch.stack([(g * d).sum(), g.square().sum(), d.square().sum()])
        for g, d in zip(gradient.chunk(2), direction.chunk(2), strict=True)
    ]
    pieces = [
        biased_gradient(g, d, 1.0, mode, total=lambda _: sums[0] + sums[1])
        for g, d in zip(gradient.chunk(2), direction.chunk(2), strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces), biased_gradient(gradient, direction, 1.0, mode))


def test_directions_of_factors_are_those_of_the_card():
    # d A^T = [[0.1], [0.6]], B^T d = [[0.05, 0.3, 0.2]], both twice.
    outer, inner = factor_directions(
        torch.tensor([[0.1, 0.0, 0.2], [0.0, 0.3, 0.1]]),
        torch.tensor([[1.0, 2.0, 0.0]]),
        torch.tensor([[0.5], [1.0]]),
        2.0,
    )
    torch.testing.assert_close(outer, torch.tensor([[0.2], [1.2]]))
    torch.testing.assert_close(inner, torch.tensor([[0.1, 0.6, 0.4]]))


def test_directions_of_factors_are_their_gradients_for_a_gradient_of_the_weight():
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(2, 5, generator=generator, requires_grad=True)
    outer = torch.randn(4, 2, generator=generator, requires_grad=True)
    delta = torch.randn(4, 5, generator=generator)
    (1.5 * outer @ inner).backward(delta)
    of_outer, of_inner = factor_directions(delta, inner.detach(), outer.detach(), 1.5)
    torch.testing.assert_close(of_outer, outer.grad)
    torch.testing.assert_close(of_inner, inner.grad)


def test_an_adapter_that_adds_nothing_yet_has_no_direction_for_its_inner_factor():
    _, inner = factor_directions(torch.ones(3, 4), torch.ones(2, 4), torch.zeros(3, 2), 2.0)
    assert not inner.any()
