import math

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import PolicyBatch, PolicyTotals
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.mismatch_correction import MismatchCorrection, measure_mismatch

POLICY = torch.tensor([[0.5, 0.2], [0.3, 0.9]]).log()
ENGINE = torch.tensor([[0.125, 0.2], [0.1, 0.9]]).log()
MASK = torch.tensor([[1, 1], [1, 0]])


def test_figures_are_those_worked_out_by_hand():
    measured = measure_mismatch(MismatchCorrection("masked", highest=3.5), POLICY, ENGINE, MASK)
    # Ratios 4, 1 and 3 over tokens that count: |log| is ln 4, 0 and ln 3.
    assert float(measured.sums["mismatch"]) == pytest.approx(math.log(4) + math.log(3), rel=1e-5)
    assert float(measured.maxima["mismatch"]) == pytest.approx(math.log(4), rel=1e-5)
    assert float(measured.maxima["mismatch_ratio"]) == pytest.approx(4, rel=1e-5)
    # k3 of each: r - 1 - ln r.
    assert float(measured.sums["mismatch_kl"]) == pytest.approx(3 - math.log(4) + 2 - math.log(3), rel=1e-5)
    assert float(measured.sums["mismatch_cut"]) == 1
    torch.testing.assert_close(measured.weights, torch.tensor([[0.0, 1.0], [3.0, 1.0]]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "truncated"}, [[2.0, 1.0], [2.0, 1.0]]),
        ({"kind": "truncated", "level": "sequence", "highest": 3.5}, [[3.5, 3.5], [3.0, 1.0]]),
        ({"kind": "masked", "level": "mean"}, [[2.0, 2.0], [0.0, 1.0]]),
        ({"kind": "none"}, [[1.0, 1.0], [1.0, 1.0]]),
    ],
)
def test_weights_of_each_kind(settings, expected):
    # The first completion has ratios 4 and 1: 4 in all, 2 in the geometric mean; the second 3.
    weights = measure_mismatch(MismatchCorrection(**settings), POLICY, ENGINE, MASK).weights
    torch.testing.assert_close(weights, torch.tensor(expected))


@pytest.mark.parametrize("objective", [ClippedPolicyLoss(), ClippedPolicyLoss(aggregation="grpo", kl=0.1)])
def test_the_gradient_is_that_of_the_policy_gradient_times_the_weight(objective):
    advantages = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    totals = PolicyTotals(tokens=3, sequences=2, active_sequences=2, max_tokens=2)
    coefficients = {name: value.value for name, value in objective.coefficients().items()}
    reference = torch.full((2, 2), -1.0) if objective.needs_reference else None
    weights = measure_mismatch(MismatchCorrection(highest=3.5), POLICY, ENGINE, MASK).weights

    def gradient(given, reference=reference):
        log_probs = POLICY.clone().requires_grad_()
        batch = PolicyBatch(log_probs, POLICY, given, MASK, reference_log_probs=reference)
        objective(batch, totals, coefficients).share.backward()
        return log_probs.grad

    # The divergence's own gradient, which is not weighed, stands alone where all advantages are 0.
    alone = gradient(torch.zeros(2, 2))
    torch.testing.assert_close(gradient(advantages * weights), alone + weights * (gradient(advantages) - alone))
    assert not torch.allclose(gradient(advantages * weights), gradient(advantages))


def test_no_completions_have_no_mismatch():
    empty = torch.zeros(0, 0)
    measured = measure_mismatch(MismatchCorrection(), empty, empty, empty)
    assert {float(value) for value in (*measured.sums.values(), *measured.maxima.values())} == {0.0}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "clipped"}, "kind is 'clipped'; give truncated, masked or none"),
        ({"level": "word"}, "level is 'word'; give token, sequence, mean"),
        ({"lowest": 1.5}, "lowest 1.5"),
        ({"highest": 0.5}, "highest 0.5"),
        ({"highest": math.inf}, "both finite"),
    ],
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        MismatchCorrection(**settings)
