import math

import pytest
import torch

from lit_vlm.functional.groups import group_statistics, weighted_total


def test_figures_of_groups_in_any_order():
    values = torch.tensor([1.0, 5.0, math.nan, 3.0, 5.0, math.nan])
    groups = group_statistics(values, torch.tensor([7, 2, 7, 7, 2, 9]))
    assert groups.counts.tolist() == [2, 2, 2, 2, 2, 0]
    assert groups.means.tolist() == [2, 5, 2, 2, 5, 0]
    assert groups.deviations.tolist() == pytest.approx([math.sqrt(2), 0, math.sqrt(2), math.sqrt(2), 0, 0])
    assert groups.differ.tolist() == [True, False, True, True, False, False]
    assert groups.leads.tolist() == [True, True, False, False, False, True]


def test_figures_equal_those_of_each_group_alone():
    generator = torch.Generator().manual_seed(0)
    values, group_of = torch.randn(50, generator=generator) + 1e4, torch.randint(5, (50,), generator=generator)
    groups = group_statistics(values, group_of)
    for group in range(5):
        own = values[group_of == group].double()
        assert groups.means[group_of == group].tolist() == pytest.approx([own.mean().item()] * len(own))
        assert groups.deviations[group_of == group].tolist() == pytest.approx([own.std().item()] * len(own))
    assert groups.leads.sum() == 5


def test_equal_values_have_no_deviation_whatever_rounding_does():
    values = torch.full((1001,), 0.7, dtype=torch.float64)
    groups = group_statistics(values, torch.zeros(1001, dtype=torch.long))
    assert (groups.deviations == 0).all()
    assert not groups.differ.any()


def test_nothing_has_no_groups():
    assert group_statistics(torch.zeros(0), torch.zeros(0, dtype=torch.long)).leads.shape == (0,)


def test_the_check_of_the_card_is_reproduced_by_the_weighted_total():
    nan = math.nan
    total = weighted_total(torch.tensor([[1, 0.5, nan], [0, 1, 2], [nan, nan, nan]]), torch.tensor([1, 0.5, 0.1]))
    assert total[:2].tolist() == pytest.approx([1.25, 0.7])
    assert total[2].isnan()
