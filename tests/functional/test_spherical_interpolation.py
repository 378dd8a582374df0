import math

import pytest
import torch

from lit_vlm.functional.spherical_interpolation import interpolated_on_sphere

FIRST, SECOND = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0])


def test_a_quarter_of_the_way():
    # phi = 45 degrees: sin(33.75)/sin(45) = 0.785695, sin(11.25)/sin(45) = 0.275899.
    got = interpolated_on_sphere(FIRST, SECOND, 0.25)
    torch.testing.assert_close(got, torch.tensor([1.06159, 0.275899, 0.0]), atol=1e-5, rtol=0)


def test_the_ends_are_bit_exact():
    first = torch.tensor([-0.0, 1e-38, 3.1])
    assert torch.equal(interpolated_on_sphere(first, SECOND, 0.0).view(torch.int32), first.view(torch.int32))
    assert torch.equal(interpolated_on_sphere(SECOND, first, 1.0).view(torch.int32), first.view(torch.int32))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_between_vectors_of_one_norm_the_norm_stays_and_the_angle_is_shared(t: float):
    first, second = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    got = interpolated_on_sphere(first, second, t)
    assert got.norm().item() == pytest.approx(2.0)
    assert math.atan2(got[1].item(), got[0].item()) == pytest.approx(t * math.pi / 2)


def test_going_the_other_way_is_the_same():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 100, generator=generator)
    there, back = interpolated_on_sphere(first, second, 0.3), interpolated_on_sphere(second, first, 0.7)
    torch.testing.assert_close(there, back)


def test_almost_parallel_vectors_are_interpolated_along_the_line():
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.09])
    torch.testing.assert_close(interpolated_on_sphere(first, second, 0.5), torch.tensor([2.0, 0.045]))
    torch.testing.assert_close(interpolated_on_sphere(first, -second, 0.5), torch.tensor([-1.0, -0.045]))
    assert interpolated_on_sphere(first, second, 0.5, threshold=1.0)[0].item() > 2.0002


@pytest.mark.parametrize("per_row", [False, True])
def test_zeros_and_equal_tensors_stay_finite(per_row: bool):
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    for first, second in ((zero, zero), (zero, one), (one, zero), (one, one), (one, -one), (one * 1e-30, one * 1e30)):
        assert interpolated_on_sphere(first, second, 0.4, per_row=per_row, threshold=1 - 1e-12).isfinite().all()
    torch.testing.assert_close(interpolated_on_sphere(one, one, 0.4, per_row=per_row), one)


def test_rows_have_angles_of_their_own():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, 6, generator=generator)
    rows = [interpolated_on_sphere(one, other, 0.3) for one, other in zip(first, second, strict=True)]
    got = interpolated_on_sphere(first, second, 0.3, per_row=True)
    torch.testing.assert_close(got, torch.stack(rows))
    assert not torch.allclose(got, interpolated_on_sphere(first, second, 0.3))


def test_both_may_grow_together():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, generator=generator)
    got = interpolated_on_sphere(4 * first, 4 * second, 0.3)
    torch.testing.assert_close(got, 4 * interpolated_on_sphere(first, second, 0.3))
