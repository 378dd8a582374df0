import pytest
import torch

from lit_vlm.merging.task_arithmetic import TaskArithmetic
from lit_vlm.merging.ties import TIES
from tests.merging.merge_tensors import mixed, random_mix

DONORS = [[1.0, -0.5, 0.1, 0.3], [0.6, 0.8, -0.2, -0.9]]


@pytest.mark.parametrize(("scale", "expected"), [(1.0, [0.8, 0.8, 0.0, -0.9]), (0.5, [0.4, 0.4, 0.0, -0.45])])
def test_what_is_trimmed_elected_and_averaged(scale: float, expected: list[float]):
    merged = TIES(scale=scale)(mixed([0.0] * 4, DONORS, densities=[0.5, 0.75]))
    torch.testing.assert_close(merged, torch.tensor(expected))


def test_without_normalisation_agreeing_differences_are_summed():
    merged = TIES(normalize=False)(mixed([0.0] * 4, DONORS, densities=[0.5, 0.75]))
    torch.testing.assert_close(merged, torch.tensor([1.6, 0.8, 0.0, -0.9]))


def test_one_donor_with_all_its_numbers_is_task_arithmetic():
    tensors = random_mix(count=1)
    torch.testing.assert_close(TIES()(tensors), TaskArithmetic()(tensors))


def test_one_donor_is_not_made_smaller_by_its_weight():
    tensors = random_mix(count=1, weights=[0.25])
    torch.testing.assert_close(TIES()(tensors), tensors.values[0])
    torch.testing.assert_close(TIES(normalize=False)(tensors), TaskArithmetic()(tensors))


def test_a_donor_against_the_majority_does_not_pull_back():
    # The mean of all three would be 0.2; TIES asks those that agree alone.
    assert TIES()(mixed([0.0], [[1.0], [1.0], [-1.4]])).tolist() == [1.0]


def test_equal_weights_of_any_size_give_the_same():
    densities = [0.3, 0.4, 0.5]
    small, large = random_mix(weights=[0.1] * 3, densities=densities), random_mix(densities=densities)
    torch.testing.assert_close(TIES()(small), TIES()(large))


def test_without_election_it_is_magnitude_pruning():
    merged = TIES(sign_election=False, normalize=False)(mixed([0.0] * 4, DONORS, densities=[0.5, 0.75]))
    torch.testing.assert_close(merged, torch.tensor([1.6, 0.3, 0.0, -0.9]))


def test_rescaling_by_l1_keeps_the_sum_of_absolute_values():
    merged = TIES(rescale="l1")(mixed([0.0] * 4, DONORS[:1], densities=[0.5]))
    assert merged.abs().sum().item() == pytest.approx(1.9)
    assert merged.tolist() == pytest.approx([1.9 * 2 / 3, -1.9 / 3, 0.0, 0.0])


def test_every_weight_is_trimmed_to_its_density():
    tensors = random_mix((100, 7), count=1, densities=[0.2])
    assert int((TIES()(tensors) != tensors.target).sum()) == 140
