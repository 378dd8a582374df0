import pytest
import torch

from lit_vlm.evaluation.pair_metrics import PairMetrics, pair_accuracies
from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores


def scores(chosen, rejected, chosen_tokens, rejected_tokens, has_rejected=None):
    nothing = torch.zeros(len(chosen), dtype=torch.bool)
    compared = torch.ones(len(chosen), dtype=torch.bool) if has_rejected is None else torch.tensor(has_rejected)
    return PairScores(
        policy=PairLogProbs(torch.tensor(chosen), torch.tensor(rejected)),
        reference=None,
        chosen_tokens=torch.tensor(chosen_tokens),
        rejected_tokens=torch.tensor(rejected_tokens),
        weights=torch.ones(len(chosen)),
        has_rejected=compared,
        has_corrupted=nothing,
    )


def test_pairs_are_compared_by_sums_and_by_means_over_tokens():
    # Sums: -4 > -6, -6 < -4, -3 = -3. Means: -2 < -1, -1 > -2, -1.5 < -1.
    found = pair_accuracies(scores([-4.0, -6.0, -3.0], [-6.0, -4.0, -3.0], [2, 6, 2], [6, 2, 3]))
    assert {name: int(value) for name, value in found.items()} == {"pair_accuracy": 1, "pair_accuracy_per_token": 1}


def test_a_pair_without_a_rejected_completion_does_not_count():
    found = pair_accuracies(scores([-1.0, 2.0], [-2.0, 0.0], [1, 1], [1, 0], has_rejected=[True, False]))
    assert int(found["pair_accuracy"]) == 1
    assert int(found["pair_accuracy_per_token"]) == 1


def test_figures_are_means_over_all_batches_with_intervals_of_shares():
    metrics = PairMetrics(["right"], ["margin"])
    metrics.update({"right": torch.tensor(3), "margin": torch.tensor(1.0)}, torch.tensor(4))
    metrics.update({"right": torch.tensor(0), "margin": torch.tensor(3.0)}, torch.tensor(4))
    low, high = wilson_interval(3, 8)
    assert metrics.compute() == pytest.approx(
        {"right": 0.375, "right_low": low, "right_high": high, "right_total": 8, "margin": 0.5}
    )


def test_figures_over_nothing_are_left_out():
    metrics = PairMetrics(["right"], ["margin"])
    assert metrics.compute() == {}
    metrics.update({"margin": 2.0}, 1)
    assert metrics.compute() == {"margin": 2.0}


def test_resetting_forgets():
    metrics = PairMetrics(["right"])
    metrics.update({"right": 1}, 1)
    metrics.reset()
    assert metrics.compute() == {}


def test_unknown_names_are_refused():
    with pytest.raises(KeyError, match="left"):
        PairMetrics(["right"]).update({"left": 1}, 1)
