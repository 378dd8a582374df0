import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import MergeTensors
from lit_vlm.merging.frank import FittedFrank, Frank, vision_priors, vision_share
from tests.merging.merge_tensors import mixed, random_mix, same_bits

ATTENTION = [0.4, 0.2, 0.1]


def layers_with_norms(vision: Sequence[float], reasoning: Sequence[float]) -> list[MergeTensors]:
    """One weight a layer, whose differences have the given squared norms, and a head."""
    weights = [
        mixed([1.0, 1.0], [[1 + math.sqrt(v), 1.0], [1.0, 1 - math.sqrt(r)]], layer=layer, layers=len(vision))
        for layer, (v, r) in enumerate(zip(vision, reasoning, strict=True))
    ]
    return [*weights, mixed([1.0], [[3.0], [9.0]], layer=None, layers=len(vision), target=[3.0])]


CARD = layers_with_norms([4.0, 2.0, 1.0], [1.0, 1.0, 2.0])


def test_with_attention_every_layer_has_its_own_shares():
    fitted = Frank(attention=ATTENTION).fitted(CARD)
    assert [layer.vision_prior for layer in fitted.layers] == pytest.approx([0.571429, 0.285714, 0.142857], abs=1e-6)
    assert [layer.vision_share for layer in fitted.layers] == pytest.approx([0.842105, 0.444444, 0.0769231], abs=1e-6)
    assert [layer.reasoning_share for layer in fitted.layers] == pytest.approx([0.157895, 0.555556, 0.923077], abs=1e-6)
    assert [layer.vision_norm for layer in fitted.layers] == pytest.approx([4, 2, 1])
    assert [layer.reasoning_norm for layer in fitted.layers] == pytest.approx([1, 1, 2])
    assert [layer.attention for layer in fitted.layers] == ATTENTION


def test_without_attention_only_the_norms_count():
    fitted = Frank().fitted(CARD)
    assert [layer.vision_share for layer in fitted.layers] == pytest.approx([0.8, 0.666667, 0.333333], abs=1e-6)
    assert {layer.attention for layer in fitted.layers} == {None}


def test_the_slope_of_the_prior_is_that_of_the_attention():
    priors = vision_priors(ATTENTION)
    assert math.log(priors[0] / priors[1]) == pytest.approx(0.693147, abs=1e-6)
    deep = vision_priors([math.exp(-0.1 * layer) for layer in range(48)])
    at = [deep[0], deep[23], deep[47]]
    assert at == pytest.approx([0.0959522, 0.00962006, 0.000872712], rel=1e-5)


def test_divided_by_the_largest_the_first_layer_has_a_prior_of_1():
    deep = vision_priors([math.exp(-0.1 * layer) for layer in range(48)], "max")
    assert deep == pytest.approx([math.exp(-0.1 * layer) for layer in range(48)])
    rising = vision_priors(ATTENTION[::-1], "max")
    assert rising == pytest.approx([0.25, 0.5, 1.0])


@pytest.mark.parametrize("prior_norm", ["sum", "max"])
@pytest.mark.parametrize("attention", [ATTENTION, ATTENTION[::-1], [0.1, 0.9, 0.1], [1.0, 1e-12, 0.0]])
def test_shares_add_up_to_1_and_lie_between(attention: list[float], prior_norm: str):
    fitted = Frank(attention=attention, prior_norm=prior_norm).fitted(CARD)  # type: ignore[arg-type]
    for layer in fitted.layers:
        assert layer.vision_share + layer.reasoning_share == 1
        assert 0 <= layer.vision_share <= 1
        assert 0 <= layer.vision_prior <= 1


def test_layers_are_mixed_by_their_shares():
    fitted = Frank().fitted(CARD)
    for tensors, share in zip(CARD, [0.8, 2 / 3, 1 / 3], strict=False):
        vision, reasoning = tensors.deltas
        torch.testing.assert_close(fitted(tensors), 1 + share * vision + (1 - share) * reasoning)


def test_the_mix_does_not_depend_on_the_target_within_the_layers():
    fitted = Frank().fitted(CARD)
    other = replace(CARD[0], target=torch.full((2,), 7.0))
    assert torch.equal(fitted(other), fitted(CARD[0]))


def test_outside_the_layers_the_target_stays():
    head = CARD[-1]
    assert same_bits(Frank().fitted(CARD)(head), head.target)
    assert len(Frank().fitted(CARD).layers) == 3


def test_all_weights_of_a_layer_share_its_norms():
    first, second = random_mix((3, 4), count=2, seed=1), random_mix((7,), count=2, seed=2)
    fitted = Frank().fitted([first, second])
    (layer,) = fitted.layers
    vision, reasoning = (
        sum(tensors.deltas[donor].double().square().sum().item() for tensors in (first, second)) for donor in (0, 1)
    )
    assert layer.vision_share == pytest.approx(vision / (vision + reasoning))
    turned = Frank().fitted([second, first])
    assert turned.layers[0].vision_share == pytest.approx(layer.vision_share)


def test_where_nothing_was_learnt_the_base_stays():
    same = mixed([1.0, 2.0], [[1.0, 2.0], [1.0, 2.0]])
    fitted = Frank().fitted([same])
    assert fitted(same).tolist() == [1.0, 2.0]
    assert vision_share(0.0, 0.0) == 1.0


def test_where_one_learnt_nothing_the_other_is_taken_whole():
    only_vision = mixed([1.0], [[3.0], [1.0]])
    only_reasoning = mixed([1.0], [[1.0], [4.0]])
    assert Frank().fitted([only_vision])(only_vision).tolist() == [3.0]
    assert Frank().fitted([only_reasoning])(only_reasoning).tolist() == [4.0]


def test_no_attention_in_a_layer_counts_as_very_little_with_a_warning(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        got = vision_priors([0.4, 0.2, 0.0])
    assert "attention to images is 0" in caplog.text
    assert got == pytest.approx(vision_priors([0.4, 0.2, 1e-12]))


def test_a_decoder_of_one_layer_has_no_slope():
    assert vision_priors([0.3]) == [1.0]


def test_attention_for_other_layers_is_refused():
    with pytest.raises(UserError, match="attention has 2 numbers, but the decoder has 3 layers"):
        Frank(attention=[0.1, 0.2]).fitted(CARD)


@pytest.mark.parametrize("attention", [[-0.1, 0.2], [float("nan"), 0.2], [float("inf")]])
def test_attention_that_is_none_is_refused(attention: list[float]):
    with pytest.raises(UserError, match="attention"):
        Frank(attention=attention)


def test_donors_without_a_base_without_layers_or_with_weights_are_refused():
    bare = replace(CARD[0], donors=[replace(donor, delta=None) for donor in CARD[0].donors])
    with pytest.raises(UserError, match="a base that both donors come from"):
        Frank().fitted([bare])
    with pytest.raises(UserError, match="none of the weights to merge"):
        Frank().fitted(CARD[-1:])
    with pytest.raises(UserError, match="finds its own weights"):
        Frank().fitted([mixed([0.0], [[1.0], [2.0]], [0.5, 0.5])])
    with pytest.raises(UserError, match="exactly two donors"):
        Frank().fitted([mixed([0.0], [[1.0]])])
    values = [replace(donor, value=None) for donor in CARD[0].donors]
    with pytest.raises(UserError, match="own weights"):
        Frank().fitted(CARD)(replace(CARD[0], donors=values))


def test_weights_are_read_once_and_one_by_one():
    given = 0

    def one_by_one() -> Iterator[MergeTensors]:
        nonlocal given
        for tensors in CARD:
            given += 1
            yield tensors

    fitted = Frank().fitted(one_by_one())
    assert given == len(CARD)
    assert isinstance(fitted, FittedFrank)
    assert fitted.fitted(iter([])) is fitted


def test_it_must_be_fitted_first():
    with pytest.raises(RuntimeError, match="fitted"):
        Frank()(CARD[0])
    with pytest.raises(RuntimeError, match="layer 3"):
        Frank().fitted(CARD)(mixed([0.0], [[1.0], [2.0]], layer=3))
