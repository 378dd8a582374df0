import pytest
import torch

from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.interfaces.weights import DonorTensor, MergeTensors, WeightPlace
from lit_vlm.merging.scaled_task_arithmetic import ScaledTaskArithmetic
from lit_vlm.merging.task_arithmetic import TaskArithmetic


def tensors(target, *deltas, group="mlp", layer=1, weights=None):
    place = WeightPlace(f"model.layers.{layer}.{group}.weight", group, layer, 4)
    weights = weights or [1.0] * len(deltas)
    donors = [
        DonorTensor(weight, 1.0, None, torch.tensor(delta), seed=0)
        for weight, delta in zip(weights, deltas, strict=True)
    ]
    return MergeTensors(place, torch.tensor(target), donors)


def scaled(*rules):
    return ScaledTaskArithmetic(factors=tuple(CoefficientRule(*rule) for rule in rules))


def test_the_published_sum():
    # v = grpo - sft = [0.2, 0.4, -0.2]; mask [1, 0, 1] leaves out the middle one: 0.2 + 0.5 * 0.2 = 0.3, and so on.
    grpo, sft, mask = torch.tensor([1.0, 0.5, 0.3]), torch.tensor([0.8, 0.1, 0.5]), torch.tensor([1.0, 0.0, 1.0])
    merged = scaled((None, 0.5))(tensors([0.2, -0.1, 0.4], (mask * (grpo - sft)).tolist()))
    torch.testing.assert_close(merged, torch.tensor([0.3, -0.1, 0.3]))


@pytest.mark.parametrize("factor", [-1.0, 0.25, 2.0])
def test_a_factor_multiplies_every_donor_s_own_weight(factor):
    parts = tensors([1.0, 2.0], [0.5, -1.0], [3.0, 0.1], weights=[0.5, -2.0])
    same = tensors([1.0, 2.0], [0.5, -1.0], [3.0, 0.1], weights=[factor * 0.5, factor * -2.0])
    assert torch.equal(scaled((None, factor))(parts), TaskArithmetic()(same))


def test_zero_gives_the_target_bit_for_bit_even_beside_infinite_differences():
    target = [0.1, -0.0, 1e-30]
    merged = scaled((None, 0.0))(tensors(target, [float("inf"), 1.0, float("nan")]))
    assert torch.equal(merged.view(torch.int32), torch.tensor(target).view(torch.int32))


def test_groups_have_factors_of_their_own_and_others_none():
    operation = scaled(("layers:0-1", 2.0), ("mlp", 3.0))
    assert operation(tensors([0.0], [1.0], layer=1)).tolist() == [2.0]
    assert operation(tensors([0.0], [1.0], layer=2)).tolist() == [3.0]
    assert operation(tensors([0.0], [1.0], group="attn", layer=2)).tolist() == [0.0]


def test_pieces_of_a_weight_merge_as_the_whole():
    assert ScaledTaskArithmetic.elementwise
