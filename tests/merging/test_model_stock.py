import pytest
import torch

from lit_vlm.functional.task_vectors import inner_products
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.model_stock import ModelStock
from tests.merging.merge_tensors import mixed, random_mix, same_bits, unchanged


def test_two_donors_at_a_small_angle_stay_close_to_their_mean():
    # c = (0.8 + 0.12) / 1.0198 = 0.902136, t = 2c / (1 + c) = 0.948549.
    tensors = mixed([0.0, 0.0], [[1.0, 0.2], [0.8, 0.6]])
    assert ModelStock.share(inner_products(tensors.deltas)).item() == pytest.approx(0.948549, abs=1e-6)
    torch.testing.assert_close(ModelStock()(tensors), torch.tensor([0.853695, 0.37942]), atol=1e-5, rtol=1e-5)


def test_donors_that_agree_are_taken_whole_and_donors_at_right_angles_not_at_all():
    assert ModelStock()(mixed([1.0, 0.0], [[2.0, 0.0], [4.0, 0.0]])).tolist() == [3.0, 0.0]
    assert ModelStock()(mixed([1.0, 0.0], [[2.0, 0.0], [1.0, 5.0]])).tolist() == [1.0, 0.0]


def test_small_differences_are_told_apart_by_their_angle_too():
    tensors = mixed([0.0, 0.0], [[1e-12, 2e-13], [8e-13, 6e-13]])
    assert ModelStock.share(inner_products(tensors.deltas)).item() == pytest.approx(0.948549, abs=1e-5)


@pytest.mark.parametrize("per_row", [False, True])
def test_donors_that_cancel_out_or_learnt_nothing_leave_the_base(per_row: bool):
    stock = ModelStock(per_row=per_row)
    assert stock(mixed([1.0, 1.0], [[2.0, 0.0], [0.0, 2.0]])).tolist() == [1.0, 1.0]
    assert stock(mixed([1.0, 1.0], [[1.0, 1.0], [1.0, 1.0]])).tolist() == [1.0, 1.0]
    assert stock(mixed([1.0, 1.0], [[1.0, 1.0], [3.0, 1.0]])).tolist() == [1.0, 1.0]


def test_rows_have_a_share_of_their_own():
    tensors = random_mix((5, 30), count=3)
    rows = [ModelStock()(mixed(tensors.target[row], [value[row] for value in tensors.values])) for row in range(5)]
    torch.testing.assert_close(ModelStock(per_row=True)(tensors), torch.stack(rows))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4)])
@pytest.mark.parametrize("per_row", [False, True])
def test_any_shape(shape: tuple[int, ...], per_row: bool):
    assert ModelStock(per_row=per_row)(random_mix(shape)).shape == shape


def test_the_order_of_donors_does_not_matter_and_nothing_given_changes():
    tensors = random_mix()
    before = unchanged(tensors)
    turned = mixed(tensors.target, tensors.values[::-1])
    torch.testing.assert_close(ModelStock()(tensors), ModelStock()(turned))
    assert all(same_bits(now, then) for now, then in zip(unchanged(tensors), before, strict=True))


def test_a_donor_of_weight_0_takes_no_part_and_two_must():
    three = random_mix(weights=[1.0, 0.0, 1.0])
    two = mixed(three.target, [three.values[0], three.values[2]])
    assert torch.equal(ModelStock()(three), ModelStock()(two))
    with pytest.raises(UserError, match="two donors or more"):
        ModelStock()(random_mix(weights=[1.0, 0.0, 0.0]))


def test_weights_that_would_not_be_read_are_refused():
    with pytest.raises(UserError, match=r"donor 2 has weight 0\.5"):
        ModelStock()(random_mix(weights=[1.0, 0.5, 1.0]))
