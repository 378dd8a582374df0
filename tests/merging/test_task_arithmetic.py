import pytest
import torch

from lit_vlm.merging.task_arithmetic import TaskArithmetic
from tests.merging.merge_tensors import mixed, random_mix


def test_differences_are_added_by_their_weights():
    merged = TaskArithmetic()(mixed([1.0, 2.0, 3.0], [[1.5, 2.0, 2.0], [1.0, 1.0, 4.0]], [0.4, 1.0]))
    torch.testing.assert_close(merged, torch.tensor([1.2, 1.0, 3.6]))


def test_a_reasoning_vector_goes_into_a_third_model_under_a_mask():
    sft, grpo, target = [0.8, 0.1, 0.5], [1.0, 0.5, 0.3], [0.2, -0.1, 0.4]
    # The mask is a coefficient of 0: that number stands for a weight of its own.
    weights = [0.5, 0.0, 0.5]
    merged = [TaskArithmetic()(mixed([sft[i]], [[grpo[i]]], [weights[i]], target=[target[i]])).item() for i in range(3)]
    assert merged == pytest.approx([0.3, -0.1, 0.3])


def test_an_instruction_residual_goes_into_the_continued_base():
    merged = TaskArithmetic()(mixed([1.0, 1.0], [[1.3, 0.7]], target=[0.9, 1.2]))
    torch.testing.assert_close(merged, torch.tensor([1.2, 0.9]))


def test_subtracting_what_was_added_gives_the_target_back():
    tensors = random_mix(count=1)
    added = TaskArithmetic()(tensors)
    back = TaskArithmetic(scale=-1.0)(mixed(tensors.target, tensors.values, target=added))
    torch.testing.assert_close(back, tensors.target)


def test_one_donor_at_weight_1_is_the_donor():
    tensors = random_mix(count=1)
    torch.testing.assert_close(TaskArithmetic()(tensors), tensors.values[0])


def test_an_analogy():
    base, donors = [1.0, 1.0], [[2.0, 1.0], [1.0, 3.0], [2.0, 3.0]]
    assert TaskArithmetic()(mixed(base, donors, [1.0, 1.0, -1.0])).tolist() == [1.0, 1.0]


def test_normalised_it_is_the_mean_difference():
    merged = TaskArithmetic(normalize=True, scale=0.5)(mixed([0.0], [[4.0], [8.0]], [1.0, 3.0]))
    assert merged.tolist() == [3.5]


def test_pieces_of_a_weight_give_pieces_of_the_result():
    tensors = random_mix((40,), weights=[0.3, 0.1, -2.0])
    tail = mixed(tensors.target[13:], [value[13:] for value in tensors.values], [0.3, 0.1, -2.0])
    assert torch.equal(TaskArithmetic()(tensors)[13:], TaskArithmetic()(tail))


def test_densities_are_not_read():
    assert torch.equal(TaskArithmetic()(random_mix(densities=[0.1, 0.0, 1.0])), TaskArithmetic()(random_mix()))
