from dataclasses import replace

import pytest
import torch

from lit_vlm.functional.weight_coefficients import CoefficientRule, WeightCoefficient
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.slerp import Slerp
from tests.merging.merge_tensors import mixed, random_mix, same_bits

DONORS = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


def test_a_quarter_of_the_way():
    merged = Slerp(t=0.25)(mixed([0.0] * 3, DONORS))
    torch.testing.assert_close(merged, torch.tensor([1.06159, 0.275899, 0.0]), atol=1e-5, rtol=0)


def test_the_ends_are_the_donors_bit_for_bit():
    tensors = random_mix(count=2)
    assert same_bits(Slerp(t=0.0)(tensors), tensors.values[0])
    assert same_bits(Slerp(t=1.0)(tensors), tensors.values[1])


@pytest.mark.parametrize("t", [[0.0, 1.0], [CoefficientRule("layers:2", 1.0)]])
def test_t_may_depend_on_the_layer(t: WeightCoefficient):
    first = Slerp(t=t)(mixed([0.0] * 3, DONORS, layer=0, layers=3))
    last = Slerp(t=t)(mixed([0.0] * 3, DONORS, layer=2, layers=3))
    assert (first.tolist(), last.tolist()) == (DONORS[0], DONORS[1])


def test_a_number_holds_for_the_head_too():
    merged = Slerp(t=1.0)(mixed([0.0] * 3, DONORS, layer=None))
    assert merged.tolist() == DONORS[1]


def test_the_threshold_can_be_set():
    tensors = mixed([0.0] * 3, DONORS)
    straight = Slerp(t=0.5, threshold=0.7)(tensors)
    torch.testing.assert_close(straight, torch.tensor([1.0, 0.5, 0.0]))
    assert not torch.allclose(Slerp(t=0.5)(tensors), straight)


@pytest.mark.parametrize("count", [1, 3])
def test_more_or_fewer_than_two_donors_are_refused(count: int):
    assert Slerp.donor_counts == (2, 2)
    with pytest.raises(UserError, match=f"exactly two donors.* {count}"):
        Slerp(t=0.5)(random_mix(count=count))


@pytest.mark.parametrize(("weights", "message"), [([0.5, 0.5], "weight 0.5"), ([1.0, 0.0], "needs both donors")])
def test_weights_are_refused(weights: list[float], message: str):
    with pytest.raises(UserError, match=message):
        Slerp(t=0.5)(random_mix(count=2, weights=weights))


def test_a_donor_that_is_a_difference_is_refused():
    tensors = random_mix(count=2)
    donors = [tensors.donors[0], replace(tensors.donors[1], value=None)]
    with pytest.raises(UserError, match="own weights"):
        Slerp(t=0.5)(replace(tensors, donors=donors))
