import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.breadcrumbs import Breadcrumbs
from lit_vlm.merging.ties import TIES
from tests.merging.merge_tensors import mixed, random_mix

DELTA = [0.1, -5.0, 0.3, 0.9, -0.7, 0.2, 0.4, -0.6, 0.8, 0.5]


def test_outliers_and_small_numbers_are_dropped():
    # Density 0.4 keeps four numbers, gamma 0.1 drops the largest one before.
    merged = Breadcrumbs(gamma=0.1)(mixed([0.0] * 10, [DELTA], densities=[0.4]))
    torch.testing.assert_close(merged, torch.tensor([0.0, 0.0, 0.0, 0.9, -0.7, 0.0, 0.0, -0.6, 0.8, 0.0]))


def test_where_the_density_leaves_no_room_fewer_outliers_are_dropped():
    merged = Breadcrumbs(gamma=0.4)(mixed([0.0] * 10, [DELTA], densities=[0.9]))
    assert (merged == 0).nonzero().view(-1).tolist() == [1]


def test_without_outliers_it_is_magnitude_pruning():
    tensors = random_mix(densities=[0.2, 0.3, 0.4])
    pruned = TIES(sign_election=False, normalize=False)(tensors)
    assert torch.equal(Breadcrumbs(gamma=0.0)(tensors), pruned)
    assert not torch.equal(Breadcrumbs(gamma=0.1)(tensors), pruned)


def test_with_election_only_agreeing_differences_are_summed():
    donors = [[1.0, 1.0, 0.1, 9.0], [-3.0, 2.0, 0.2, 8.0]]
    tensors = mixed([0.0] * 4, donors, densities=[0.5, 0.5])
    assert Breadcrumbs(gamma=0.25, sign_election=True)(tensors).tolist() == [-3.0, 3.0, 0.0, 0.0]
    assert Breadcrumbs(gamma=0.25)(tensors).tolist() == [-2.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize("rescale", ["l1", "inverse_density"])
def test_what_is_kept_can_be_rescaled(rescale: str):
    tensors = mixed([0.0] * 10, [DELTA], densities=[0.4])
    merged = Breadcrumbs(gamma=0.1, rescale=rescale)(tensors)  # type: ignore[arg-type]
    factor = 9.5 / 3.0 if rescale == "l1" else 2.5
    torch.testing.assert_close(merged, factor * Breadcrumbs(gamma=0.1)(tensors))


@pytest.mark.parametrize("gamma", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(gamma: float):
    with pytest.raises(UserError, match="gamma"):
        Breadcrumbs(gamma=gamma)
