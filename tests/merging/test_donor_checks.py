import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.donor_checks import both, without_weights
from tests.merging.merge_tensors import random_mix


def test_donors_of_weight_0_are_left_out():
    tensors = random_mix(weights=[1.0, 0.0, 1.0])
    assert without_weights(tensors, "Stock") == [tensors.donors[0], tensors.donors[2]]


def test_other_weights_are_refused():
    with pytest.raises(UserError, match=r"Stock finds its own weights, but donor 3 has weight 2.0 for model\.layers"):
        without_weights(random_mix(weights=[1.0, 0.0, 2.0]), "Stock")


def test_two_donors_are_two_donors():
    tensors = random_mix(count=2)
    assert both(tensors, "Pair") == tuple(tensors.donors)
    with pytest.raises(UserError, match="Pair merges exactly two donors.*has 3"):
        both(random_mix(), "Pair")


def test_one_of_two_cannot_be_left_out_by_a_weight_unless_weights_are_read():
    tensors = random_mix(count=2, weights=[1.0, 0.0])
    with pytest.raises(UserError, match="needs both donors"):
        both(tensors, "Pair")
    assert both(tensors, "Pair", weighted=True) == tuple(tensors.donors)
