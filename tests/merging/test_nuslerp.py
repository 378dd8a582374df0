from dataclasses import replace
from typing import Literal

import pytest
import torch

from lit_vlm.functional.spherical_interpolation import interpolated_on_sphere
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.nuslerp import NuSlerp, NuSlerpDifferences
from lit_vlm.merging.slerp import Slerp
from tests.merging.merge_tensors import mixed, random_mix, same_bits

Angle = Literal["weight", "rows", "columns"]


def test_weights_say_where_between_the_donors():
    merged = NuSlerp()(mixed([0.0] * 3, [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], [3.0, 1.0]))
    torch.testing.assert_close(merged, torch.tensor([1.06159, 0.275899, 0.0]), atol=1e-5, rtol=0)


def test_it_is_slerp_by_weights():
    tensors = random_mix(count=2)
    weighted = mixed(tensors.target, tensors.values, [0.6, 1.4])
    torch.testing.assert_close(NuSlerp()(weighted), Slerp(t=0.7, threshold=1.0)(tensors))


@pytest.mark.parametrize("angle", ["weight", "rows", "columns"])
def test_a_weight_of_0_gives_the_other_donor(angle: Angle):
    tensors = random_mix(count=2, weights=[0.0, 0.5])
    assert same_bits(NuSlerp(angle=angle)(tensors), tensors.values[1])


def test_weights_that_cancel_out_give_the_middle():
    tensors = random_mix(count=2, weights=[0.5, -0.5])
    torch.testing.assert_close(NuSlerp()(tensors), interpolated_on_sphere(*tensors.values, 0.5))


def test_rows_and_columns_have_angles_of_their_own():
    tensors = random_mix((4, 6), count=2, weights=[1.0, 2.0])
    first, second = tensors.values
    rows = [interpolated_on_sphere(a, b, 2 / 3, threshold=1.0) for a, b in zip(first, second, strict=True)]
    columns = [interpolated_on_sphere(a, b, 2 / 3, threshold=1.0) for a, b in zip(first.T, second.T, strict=True)]
    torch.testing.assert_close(NuSlerp(angle="rows")(tensors), torch.stack(rows), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(NuSlerp(angle="columns")(tensors), torch.stack(columns, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("angle", ["weight", "rows", "columns"])
def test_differences_are_interpolated_and_added_to_the_target(angle: Angle):
    tensors = random_mix(count=2, weights=[1.0, 3.0], target=torch.ones(6, 50))
    apart = mixed(torch.zeros(6, 50), tensors.deltas, [1.0, 3.0])
    expected = 1.0 + NuSlerp(angle=angle)(apart)
    torch.testing.assert_close(NuSlerpDifferences(angle=angle)(tensors), expected)


def test_differences_of_0_stay_finite():
    tensors = mixed([1.0, 2.0], [[1.0, 2.0], [1.0, 2.0]])
    assert NuSlerpDifferences()(tensors).tolist() == [1.0, 2.0]


def test_norms_have_one_angle_whichever_is_asked_for():
    tensors = random_mix((9,), count=2)
    torch.testing.assert_close(NuSlerp(angle="columns")(tensors), NuSlerp()(tensors))


@pytest.mark.parametrize("operation", [NuSlerp(), NuSlerpDifferences()])
@pytest.mark.parametrize("count", [1, 3])
def test_more_or_fewer_than_two_donors_are_refused(operation: NuSlerp, count: int):
    with pytest.raises(UserError, match="exactly two donors"):
        operation(random_mix(count=count))


def test_a_donor_that_is_a_difference_is_refused_where_weights_are_needed():
    tensors = random_mix(count=2)
    bare = replace(tensors, donors=[replace(donor, value=None) for donor in tensors.donors])
    with pytest.raises(UserError, match="own weights"):
        NuSlerp()(bare)
    assert torch.equal(NuSlerpDifferences()(bare), NuSlerpDifferences()(tensors))
