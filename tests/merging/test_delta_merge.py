"""What holds for every operation on differences."""

from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.breadcrumbs import Breadcrumbs
from lit_vlm.merging.dare import DARE
from lit_vlm.merging.della import DELLA
from lit_vlm.merging.delta_merge import DeltaMerge
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from lit_vlm.merging.ties import TIES
from tests.merging.merge_tensors import mixed, random_mix, same_bits, unchanged

OPERATIONS: list[DeltaMerge] = [
    operation(sign_election=election, normalize=normalize, **extra)  # type: ignore[operator]
    for operation, extra in (
        (TaskArithmetic, {}),
        (TIES, {}),
        (TIES, {"rescale": "l1"}),
        (DARE, {}),
        (DARE, {"rescale": "l1"}),
        (Breadcrumbs, {"gamma": 0.1}),
        (DELLA, {}),
        (DELLA, {"rescale": "l1"}),
    )
    for election in (False, True)
    for normalize in (False, True)
]
DENSITIES = [0.5, 0.6, 0.7]
every = pytest.mark.parametrize("operation", OPERATIONS)


@every
def test_without_weight_or_scale_the_target_comes_back_bit_for_bit(operation: DeltaMerge):
    target = [-0.0, 0.0, 1e-40, 3.7]
    tensors = mixed([0.0] * 4, [[1.0, 2.0, 3.0, 4.0]] * 2, [0.0, 0.0], [0.5, 0.5], target=target)
    assert same_bits(operation(tensors), tensors.target)
    weighed = mixed([0.0] * 4, [[1.0, 2.0, 3.0, 4.0]] * 2, None, [0.5, 0.5], target=target)
    assert same_bits(replace(operation, scale=0.0)(weighed), tensors.target)


@every
def test_a_donor_of_weight_0_takes_no_part(operation: DeltaMerge):
    three = random_mix(weights=[0.5, 0.0, 1.0], densities=DENSITIES)
    two = replace(three, donors=[three.donors[0], three.donors[2]])
    assert torch.equal(operation(three), operation(two))


@every
def test_the_order_of_donors_does_not_matter(operation: DeltaMerge):
    tensors = random_mix(weights=[0.5, -0.3, 1.0], densities=DENSITIES)
    turned = replace(tensors, donors=tensors.donors[::-1])
    torch.testing.assert_close(operation(tensors), operation(turned), rtol=1e-5, atol=1e-6)


@every
def test_it_grows_with_the_differences(operation: DeltaMerge):
    tensors = random_mix(weights=[0.5, 0.3, 1.0], densities=DENSITIES)
    doubled = [replace(donor, delta=2 * donor.delta) for donor in tensors.donors if donor.delta is not None]
    change = operation(tensors) - tensors.target
    twice = operation(replace(tensors, donors=doubled)) - tensors.target
    torch.testing.assert_close(twice, 2 * change, rtol=1e-5, atol=1e-6)
    thrice = replace(operation, scale=3.0)(tensors) - tensors.target
    torch.testing.assert_close(thrice, 3 * change, rtol=1e-5, atol=2e-6)


@every
def test_the_change_does_not_depend_on_the_target(operation: DeltaMerge):
    tensors = random_mix(densities=DENSITIES)
    at_zero = operation(replace(tensors, target=torch.zeros_like(tensors.target)))
    torch.testing.assert_close(operation(tensors), tensors.target + at_zero, rtol=1e-5, atol=1e-6)


@every
def test_density_1_keeps_all_so_that_only_the_election_is_left(operation: DeltaMerge):
    tensors = random_mix(weights=[0.5, 0.3, 1.0])
    plain = TaskArithmetic(sign_election=operation.sign_election, normalize=operation.normalize)
    assert torch.equal(operation(tensors), plain(tensors))


@every
def test_what_is_given_stays_as_it_is(operation: DeltaMerge):
    tensors = random_mix(weights=[0.5, -0.3, 1.0], densities=DENSITIES)
    before = unchanged(tensors)
    operation(tensors)
    assert all(same_bits(now, then) for now, then in zip(unchanged(tensors), before, strict=True))


@every
def test_donors_that_learnt_nothing_change_nothing(operation: DeltaMerge):
    base = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    tensors = mixed(base, [base, base], [1.0, -1.0], [0.5, 0.5])
    assert torch.equal(operation(tensors), base)


@every
@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (2, 3, 4)])
def test_any_shape(operation: DeltaMerge, shape: tuple[int, ...]):
    tensors = random_mix(shape)
    merged = operation(tensors)
    assert merged.shape == shape
    assert merged.isfinite().all()


@every
def test_the_result_is_the_same_from_weights_laid_out_otherwise(operation: DeltaMerge):
    tensors = random_mix(densities=DENSITIES)
    strided = [
        replace(donor, delta=donor.delta.T.contiguous().T) for donor in tensors.donors if donor.delta is not None
    ]
    turned = replace(tensors, target=tensors.target.T.contiguous().T, donors=strided)
    assert torch.equal(operation(turned), operation(tensors))


@pytest.mark.parametrize("operation", [TIES(), DARE(), Breadcrumbs(), DELLA()])
@pytest.mark.parametrize("density", [0.0, -0.1, float("nan")])
def test_a_density_that_keeps_nothing_is_refused(operation: DeltaMerge, density: float):
    with pytest.raises(UserError, match=r"density is .* for model\.layers\.0"):
        operation(random_mix(densities=[density] * 3))


@pytest.mark.parametrize("operation", [TIES(), Breadcrumbs()])
def test_a_density_too_low_for_a_small_weight_is_refused(operation: DeltaMerge):
    with pytest.raises(UserError, match=r"keeps none of the 4 numbers of model\.layers\.0"):
        operation(random_mix((4,), densities=[0.2] * 3))


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_must_be_finite(scale: float):
    with pytest.raises(UserError, match="scale"):
        TIES(scale=scale)


def test_weights_that_cancel_out_are_not_divided_by():
    tensors = mixed([0.0, 0.0], [[1.0, 2.0], [3.0, 1.0]], [1.0, -1.0])
    assert TaskArithmetic(normalize=True)(tensors).tolist() == [-2.0, 1.0]


def test_only_task_arithmetic_may_be_called_with_pieces():
    assert TaskArithmetic.elementwise
    assert not any(operation.elementwise for operation in (TIES, DARE, Breadcrumbs, DELLA))
