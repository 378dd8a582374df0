from dataclasses import replace

import pytest
import torch

from lit_vlm.functional.random_masks import kept_at_random
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.functional.task_vectors import Rescaling
from lit_vlm.merging.dare import DARE
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from tests.merging.merge_tensors import mixed, random_mix

DELTA = [0.2, -0.4, 1.0, 0.4]


def seed_of_mask(mask: list[float], density: float) -> int:
    """Finds a seed whose mask of a small weight is the given one."""
    ones = torch.ones(len(mask))
    return next(seed for seed in range(10_000) if kept_at_random(ones, density, seed)(0, len(mask)).tolist() == mask)


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [
        ("inverse_density", [0.4, 0.0, 2.0, 0.0]),
        ("l1", [0.333333, 0.0, 1.66667, 0.0]),
        ("none", [0.2, 0.0, 1.0, 0.0]),
    ],
)
@pytest.mark.parametrize("sign_election", [False, True])
def test_what_is_kept_is_rescaled(rescale: Rescaling, expected: list[float], sign_election: bool):
    seed = seed_of_mask([1.0, 0.0, 1.0, 0.0], 0.5)
    tensors = mixed([0.0] * 4, [DELTA], densities=[0.5], seeds=[seed])
    merged = DARE(rescale=rescale, sign_election=sign_election)(tensors)
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_over_seeds_the_mean_is_task_arithmetic(density: float):
    rows = torch.tensor([1.0, -2.0, 0.0, 0.5]).repeat(400, 1)
    tensors = mixed(torch.zeros_like(rows), [rows, rows.flip(1)], [0.7, -0.4], [density, density])
    total = {rescale: torch.zeros(4, dtype=torch.float64) for rescale in ("inverse_density", "none")}
    for seed in range(100):
        donors = [replace(donor, seed=stream_seed(seed, index)) for index, donor in enumerate(tensors.donors)]
        for rescale in total:
            merged = DARE(rescale=rescale)(replace(tensors, donors=donors))  # type: ignore[arg-type]
            total[rescale] += merged.double().mean(0) / 100
    expected = TaskArithmetic()(tensors)[0].double()
    torch.testing.assert_close(total["inverse_density"], expected, atol=0.12, rtol=0)
    torch.testing.assert_close(total["none"], density * expected, atol=0.05, rtol=0)


def test_the_same_seed_gives_the_same_and_another_seed_another():
    def merged(*seeds: int) -> torch.Tensor:
        return DARE()(random_mix(count=2, densities=[0.5, 0.5], seeds=seeds))

    assert torch.equal(merged(3, 4), merged(3, 4))
    assert not torch.equal(merged(3, 4), merged(3, 5))


def test_donors_drop_different_numbers():
    merged = DARE(rescale="none")(mixed([0.0] * 1000, [[1.0] * 1000] * 2, densities=[0.5, 0.5]))
    shares = [(merged == count).float().mean().item() for count in (0, 1, 2)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.06)


def test_with_election_only_agreeing_differences_are_summed():
    tensors = mixed([0.0, 0.0], [[1.0, 1.0], [-3.0, 2.0]])
    assert DARE(sign_election=True)(tensors).tolist() == [-3.0, 3.0]
    assert DARE()(tensors).tolist() == [-2.0, 3.0]


def test_a_weight_of_which_nothing_is_kept_stays_finite():
    seed = seed_of_mask([0.0, 0.0], 0.1)
    for rescale in ("inverse_density", "l1", "none"):
        tensors = mixed([1.0, 2.0], [[3.0, 4.0]], densities=[0.1], seeds=[seed])
        assert DARE(rescale=rescale)(tensors).tolist() == [1.0, 2.0]  # type: ignore[arg-type]


def test_differences_below_the_guard_are_not_rescaled_by_l1():
    seed = seed_of_mask([1.0, 0.0], 0.5)
    tensors = mixed([0.0, 0.0], [[1e-9, 1e-9]], densities=[0.5], seeds=[seed])
    assert DARE(rescale="l1")(tensors).tolist() == pytest.approx([1e-9, 0.0])
