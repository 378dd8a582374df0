import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.linear import Linear
from tests.merging.merge_tensors import mixed, random_mix, same_bits, unchanged

DONORS = [[1.0, 0.0, 2.0], [3.0, -2.0, 0.0]]


@pytest.mark.parametrize(("normalize", "expected"), [(True, [2.5, -1.5, 0.5]), (False, [10.0, -6.0, 2.0])])
def test_a_weighted_mean(normalize: bool, expected: list[float]):
    merged = Linear(normalize=normalize)(mixed([0.0] * 3, DONORS, [1.0, 3.0]))
    torch.testing.assert_close(merged, torch.tensor(expected))


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [0.1, -0.1]])
def test_weights_that_add_up_to_0_are_refused(weights: list[float]):
    with pytest.raises(UserError, match=r"add up to 0"):
        Linear()(mixed([0.0] * 3, DONORS, weights))


def test_without_normalisation_they_may_cancel_out():
    assert Linear(normalize=False)(mixed([0.0] * 3, DONORS, [1.0, -1.0])).tolist() == [-2.0, 2.0, 2.0]


@pytest.mark.parametrize("weight", [0.3, 1.0, 7.0])
def test_one_donor_is_its_own_mean_bit_for_bit(weight: float):
    tensors = mixed([0.0] * 3, [[-0.0, 1e-40, 3.3]], [weight])
    assert same_bits(Linear()(tensors), tensors.values[0])


def test_order_and_size_of_weights_do_not_matter():
    tensors = random_mix(weights=[0.2, 0.3, 0.5])
    turned = mixed(torch.zeros_like(tensors.target), tensors.values[::-1], [5.0, 3.0, 2.0])
    torch.testing.assert_close(Linear()(tensors), Linear()(turned))


def test_the_target_is_not_read_and_nothing_given_changes():
    tensors = random_mix()
    before = unchanged(tensors)
    other = mixed(torch.full_like(tensors.target, 7.0), tensors.values)
    assert torch.equal(Linear()(tensors), Linear()(other))
    assert all(same_bits(now, then) for now, then in zip(unchanged(tensors), before, strict=True))


def test_it_needs_no_base():
    assert (Linear.needs_values, Linear.needs_deltas, Linear.elementwise) == (True, False, True)
