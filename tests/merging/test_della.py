from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.della import DELLA
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from tests.merging.merge_tensors import mixed, random_mix


def test_large_differences_stay_more_often():
    delta = torch.tensor([0.1, -0.2, 0.3, 0.4, -0.5]).repeat(20_000, 1)
    merged = DELLA(epsilon=0.2, rescale="none")(mixed(torch.zeros_like(delta), [delta], densities=[0.5]))
    share = (merged != 0).double().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7]).double(), atol=0.02, rtol=0)


def test_over_seeds_the_mean_is_task_arithmetic():
    linear = DELLA(sign_election=False, normalize=False)
    rows = torch.tensor([1.0, -2.0, 0.3, 0.5]).repeat(400, 1)
    tensors = mixed(torch.zeros_like(rows), [rows, rows.flip(1)], [0.7, -0.4], [0.5, 0.6])
    total = torch.zeros(4, dtype=torch.float64)
    for seed in range(100):
        donors = [replace(donor, seed=2 * seed + index) for index, donor in enumerate(tensors.donors)]
        total += linear(replace(tensors, donors=donors)).double().mean(0) / 100
    torch.testing.assert_close(total, TaskArithmetic()(tensors)[0].double(), atol=0.05, rtol=0)


def test_rescaling_by_l1_keeps_the_sum_of_absolute_values():
    tensors = random_mix((8, 40), count=1, densities=[0.4])
    zero = replace(tensors, target=torch.zeros(8, 40))
    assert DELLA(rescale="l1")(zero).abs().sum().item() == pytest.approx(tensors.deltas[0].abs().sum().item())


def test_as_it_stands_agreeing_differences_are_averaged():
    tensors = mixed([[0.0, 0.0]], [[[1.0, 1.0]], [[-3.0, 2.0]]])
    assert DELLA()(tensors).tolist() == [[-3.0, 1.5]]
    assert DELLA(sign_election=False, normalize=False)(tensors).tolist() == [[-2.0, 3.0]]


def test_seeds_alone_decide_what_stays():
    first = random_mix(densities=[0.5] * 3, seeds=[1, 2, 3])
    other = random_mix(densities=[0.5] * 3, seeds=[1, 2, 4])
    assert torch.equal(DELLA()(first), DELLA()(first))
    assert not torch.equal(DELLA()(first), DELLA()(other))


@pytest.mark.parametrize("density", [0.1, 0.15, 0.85, 0.95])
def test_probabilities_outside_of_0_to_1_are_refused(density: float):
    with pytest.raises(UserError, match=r"epsilon 0.15 .* for model\.layers\.0.*lower epsilon"):
        DELLA()(random_mix(densities=[density] * 3))


@pytest.mark.parametrize("epsilon", [-0.1, 0.5, float("nan")])
def test_a_width_that_is_none_is_refused(epsilon: float):
    with pytest.raises(UserError, match="epsilon"):
        DELLA(epsilon=epsilon)


def test_norms_and_biases_are_one_row():
    tensors = random_mix((64,), count=1, densities=[0.5])
    merged = DELLA(rescale="none", epsilon=0.49)(tensors)
    magnitudes = tensors.deltas[0].abs()
    stayed = merged != tensors.target
    assert magnitudes[stayed].mean() > magnitudes[~stayed].mean()
