import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.sce import SCE
from tests.merging.merge_tensors import mixed, random_mix, same_bits, unchanged


def test_donors_weigh_as_the_mean_square_of_their_differences():
    # Squares 1 + 1 and 4 + 4, so weights 0.2 and 0.8: 0.2 * 1 + 0.8 * 2 where signs agree; alone the second, 2.
    merged = SCE()(mixed([0.0, 0.0], [[1.0, -1.0], [2.0, 2.0]]))
    torch.testing.assert_close(merged, torch.tensor([1.8, 2.0]))


def test_the_sign_is_that_of_the_plain_sum():
    # The sum 3 - 2.9 is positive though the weighted sum need not be.
    merged = SCE()(mixed([0.0, 0.0], [[3.0, 0.1], [-2.9, 9.0]]))
    assert merged[0].item() == pytest.approx(3.0)


def test_where_donors_agree_is_dropped_first():
    # Variances 0, 1, 0.25, 4: of the three that are not 0 two thirds stay.
    donors = [[1.0, 1.0, 1.0, 5.0], [1.0, 3.0, 2.0, 1.0]]
    merged = SCE(select=0.7)(mixed([0.0] * 4, donors))
    first, second = 26 / 36, 10 / 36
    expected = [0.0, first * 1 + second * 3, 0.0, first * 5 + second * 1]
    torch.testing.assert_close(merged, torch.tensor(expected))


def test_selecting_too_few_or_where_all_agree_leaves_the_target():
    assert SCE(select=0.1)(mixed([1.0, 1.0], [[2.0, 3.0], [3.0, 5.0]])).tolist() == [1.0, 1.0]
    assert SCE(select=0.9)(mixed([1.0, 1.0], [[2.0, 3.0], [2.0, 3.0]])).tolist() == [1.0, 1.0]


def test_donors_that_agree_throughout_are_taken_whole():
    assert SCE()(mixed([1.0, 1.0], [[2.0, 3.0], [2.0, 3.0]])).tolist() == [2.0, 3.0]


def test_differences_of_0_stay_finite():
    assert SCE()(mixed([1.0, 1.0], [[1.0, 1.0], [1.0, 1.0]])).tolist() == [1.0, 1.0]


def test_it_grows_with_small_differences_too():
    large = random_mix()
    small = mixed(torch.zeros(6, 50), [1e-6 * delta for delta in large.deltas])
    change = SCE(select=0.5)(mixed(torch.zeros(6, 50), large.deltas))
    torch.testing.assert_close(SCE(select=0.5)(small) * 1e6, change)


def test_the_order_of_donors_does_not_matter_and_nothing_given_changes():
    tensors = random_mix()
    before = unchanged(tensors)
    turned = mixed(tensors.target, tensors.values[::-1])
    torch.testing.assert_close(SCE(select=0.5)(tensors), SCE(select=0.5)(turned))
    assert all(same_bits(now, then) for now, then in zip(unchanged(tensors), before, strict=True))


@pytest.mark.parametrize("select", [0.0, 1.1, -1.0, float("nan")])
def test_a_share_that_is_none_is_refused(select: float):
    with pytest.raises(UserError, match="select"):
        SCE(select=select)


def test_one_donor_and_weights_are_refused():
    with pytest.raises(UserError, match="two donors or more"):
        SCE()(random_mix(count=1))
    with pytest.raises(UserError, match="finds its own weights"):
        SCE()(random_mix(weights=[0.3, 1.0, 1.0]))
