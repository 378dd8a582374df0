import math

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import DonorTensor, MergeTensors, WeightPlace
from lit_vlm.merging.weight_figures import FigureTally, refuse_not_finite

PLACE = WeightPlace("model.norm.weight", "final_norm", None, 2)


def tensors(target, deltas=(), values=()):
    donors = [DonorTensor(0.5 + index, 1.0, None, torch.tensor(delta), index) for index, delta in enumerate(deltas)]
    donors += [DonorTensor(1.0, 1.0, torch.tensor(value), None, 0) for value in values]
    return MergeTensors(PLACE, torch.tensor(target), donors)


def figures(*pieces):
    tally = FigureTally()
    for piece, merged in pieces:
        tally.add(piece, torch.tensor(merged))
    return tally.figures("w", range(len(pieces[0][0].donors)))


def test_the_figures_of_a_worked_weight():
    # ‖target‖ = 5; changes by (0, 5); deltas (3, 4), (0, -2) and (4, -3)
    found = figures((tensors([3.0, 4.0], [[3.0, 4.0], [0.0, -2.0], [4.0, -3.0]]), [3.0, 9.0]))
    assert found.change == pytest.approx(1.0)
    assert found.deltas == pytest.approx((1.0, 0.4, 1.0))
    assert found.coefficients == (0.5, 1.5, 2.5)
    # cosines 1·2: -8/10, 1·3: 0, 2·3: 6/10
    assert found.cosines == pytest.approx((-0.8, 0.0, 0.6))
    assert found.merged
    assert found.reason == ""


def test_pieces_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    target, first, second, merged = (torch.randn(10, generator=generator).tolist() for _ in range(4))
    whole = figures((tensors(target, [first, second]), merged))
    cut = figures(*((tensors(target[at], [first[at], second[at]]), merged[at]) for at in (slice(0, 3), slice(3, 10))))
    assert cut.change == pytest.approx(whole.change)
    assert cut.deltas == pytest.approx(whole.deltas)
    assert cut.cosines == pytest.approx(whole.cosines)


def test_shapes_do_not_matter():
    piece = MergeTensors(PLACE, torch.ones(2, 3).T, [DonorTensor(1.0, 1.0, None, torch.ones(2, 3).T, 0)])
    tally = FigureTally()
    tally.add(piece, torch.zeros(3, 2))
    assert tally.figures("w", [0]).change == pytest.approx(1.0)


def test_a_target_of_zeros_has_no_relative_change():
    found = figures((tensors([0.0, 0.0], [[3.0, 4.0]]), [1.0, 0.0]))
    assert found.change is None
    assert found.deltas == pytest.approx((5.0,))


def test_a_delta_of_zeros_has_no_direction():
    assert figures((tensors([1.0], [[0.0], [1.0]]), [1.0])).cosines == (None,)


def test_without_a_base_there_are_no_deltas():
    found = figures((tensors([1.0], values=[[2.0]]), [2.0]))
    assert found.deltas == (None,)
    assert found.cosines == ()
    assert found.change == pytest.approx(1.0)


def test_donors_with_and_without_a_base_keep_their_places():
    donors = [
        DonorTensor(1.0, 1.0, torch.ones(2), None, 0),
        DonorTensor(2.0, 1.0, None, torch.tensor([0.0, 2.0]), 1),
        DonorTensor(3.0, 1.0, None, torch.tensor([1.0, 0.0]), 2),
    ]
    tally = FigureTally()
    tally.add(MergeTensors(PLACE, torch.tensor([1.0, 0.0]), donors), torch.ones(2))
    found = tally.figures("w", [0, 2, 3])
    assert found.donors == (0, 2, 3)
    assert found.coefficients == (1.0, 2.0, 3.0)
    assert found.deltas == (None, 2.0, 1.0)
    assert found.cosines == (None, None, 0.0)


def test_numbers_whose_squares_leave_float32_are_finite():
    found = figures((tensors([3e30], [[3e30]]), [3e30]))
    assert found.deltas == pytest.approx((1.0,))


def test_a_cosine_never_leaves_its_range():
    row = [0.1] * 1001
    assert figures((tensors(row, [row, row]), row)).cosines[0] <= 1


@pytest.mark.parametrize(
    ("target", "delta", "value", "merged", "told"),
    [
        ([math.nan], [1.0], [1.0], [math.nan], r"weight model\.norm\.weight: the target holds NaN"),
        ([1.0], [math.inf], [1.0], [1.0], "the difference of chat to its base holds NaN or infinity"),
        ([1.0], [1.0], [math.nan], [1.0], "model.norm.weight: chat holds NaN"),
        ([1.0], [1.0], [1.0], [math.inf], "merged weight holds NaN or infinity as float32; give smaller coefficients"),
    ],
)
def test_what_is_not_finite_is_named(target, delta, value, merged, told):
    tally = FigureTally()
    donor = DonorTensor(1.0, 1.0, torch.tensor(value), torch.tensor(delta), 0)
    whole = MergeTensors(PLACE, torch.tensor(target), [donor])
    tally.add(whole, torch.tensor(merged))
    assert tally.is_finite == (value == [math.nan])  # values are met by what they give alone
    with pytest.raises(UserError, match=told):
        refuse_not_finite(whole, torch.tensor(merged), ["chat"])


def test_finite_numbers_pass():
    refuse_not_finite(tensors([1.0], [[1.0]]), torch.tensor([2.0]), ["chat"])
