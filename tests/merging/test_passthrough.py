import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.passthrough import Passthrough
from tests.merging.merge_tensors import mixed, random_mix, same_bits


def test_the_donor_takes_the_place_of_the_target_bit_for_bit():
    tensors = mixed([5.0, 5.0, 5.0], [[-0.0, 1e-40, 2.0]])
    assert same_bits(Passthrough()(tensors), tensors.values[0])


def test_it_can_be_scaled():
    assert Passthrough()(mixed([0.0, 0.0], [[1.0, -4.0]], [0.5])).tolist() == [0.5, -2.0]


def test_where_the_coefficient_is_0_the_target_stays():
    tensors = mixed([0.0], [[1.0]], [0.0], target=[-0.0])
    assert same_bits(Passthrough()(tensors), torch.tensor([-0.0]))


@pytest.mark.parametrize("count", [0, 2])
def test_more_or_fewer_than_one_donor_are_refused(count: int):
    with pytest.raises(UserError, match="exactly one model"):
        Passthrough()(random_mix(count=count))


def test_the_result_is_a_copy():
    tensors = mixed([0.0], [[1.0]])
    Passthrough()(tensors).zero_()
    assert tensors.values[0].item() == 1.0
