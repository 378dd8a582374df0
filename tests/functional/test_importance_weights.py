import math

import pytest
import torch

from lit_vlm.functional.importance_weights import bounded_weights, importance_ratios

# Two completions of two tokens, the second of which has one token only.
POLICY = torch.tensor([[0.5, 0.2], [0.3, 0.9]]).log()
ENGINE = torch.tensor([[0.25, 0.4], [0.1, 0.9]]).log()
MASK = torch.tensor([[1, 1], [1, 0]])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        # 0.5 / 0.25 = 2 and 0.2 / 0.4 = 0.5; 0.3 / 0.1 = 3.
        ("token", [[2.0, 0.5], [3.0, 1.0]]),
        # 2 * 0.5 = 1; 3.
        ("sequence", [[1.0, 1.0], [3.0, 1.0]]),
        # The root of 1; 3.
        ("mean", [[1.0, 1.0], [3.0, 1.0]]),
    ],
)
def test_ratios_are_those_worked_out_by_hand(level, expected):
    torch.testing.assert_close(importance_ratios(POLICY, ENGINE, MASK, level), torch.tensor(expected))


def test_the_mean_is_the_root_of_the_product():
    policy, engine = torch.tensor([[0.5, 0.8]]).log(), torch.tensor([[0.25, 0.4]]).log()
    ones = torch.ones(1, 2)
    torch.testing.assert_close(importance_ratios(policy, engine, ones, "sequence"), torch.full((1, 2), 4.0))
    torch.testing.assert_close(importance_ratios(policy, engine, ones, "mean"), torch.full((1, 2), 2.0))


def test_what_is_masked_counts_nowhere_whatever_it_holds():
    policy, engine = POLICY.clone(), ENGINE.clone()
    policy[1, 1], engine[1, 1] = math.nan, -math.inf
    for level in ("token", "sequence", "mean"):
        found = importance_ratios(policy, engine, MASK, level)
        torch.testing.assert_close(found, importance_ratios(POLICY, ENGINE, MASK, level))


def test_ratios_stay_finite_and_have_no_graph():
    policy = torch.zeros(1, 1, requires_grad=True)
    found = importance_ratios(policy, torch.full((1, 1), -1000.0), torch.ones(1, 1), "token")
    assert found.isfinite().all()
    assert not found.requires_grad


def test_bounds_cut_down_or_cut_out():
    # TIS with 2: min(r, 2). IcePop with 0.5 to 2: r within, both ends included, and 0 outside.
    ratios = torch.tensor([0.1, 0.5, 1.0, 2.0, 2.1])
    assert bounded_weights(ratios, "truncated", 0.5, 2.0).tolist() == pytest.approx([0.1, 0.5, 1.0, 2.0, 2.0])
    assert bounded_weights(ratios, "masked", 0.5, 2.0).tolist() == pytest.approx([0.0, 0.5, 1.0, 2.0, 0.0])


def test_equal_policies_weigh_one():
    for bound in ("truncated", "masked"):
        ratios = importance_ratios(POLICY, POLICY, MASK, "sequence")
        assert bounded_weights(ratios, bound, 0.5, 2.0).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_nothing_has_no_weights():
    empty = torch.zeros(0, 0)
    assert importance_ratios(empty, empty, empty, "sequence").shape == (0, 0)
