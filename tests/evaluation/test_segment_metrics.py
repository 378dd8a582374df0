import pytest
import torch

from lit_vlm.evaluation.segment_metrics import SegmentMetrics
from lit_vlm.functional.intervals import wilson_interval


def logits_for(predicted: list[int]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), 3).float() * 4


def test_the_figures_of_a_worked_example() -> None:
    metrics = SegmentMetrics()
    # Classes 0: one of two found; 1: one of one; 2: two of three.
    metrics.update(logits_for([0, 2, 1]), torch.tensor([0, 0, 1]))
    metrics.update(logits_for([2, 2, 1]), torch.tensor([2, 2, 2]))
    figures = metrics.compute()
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert (figures["accuracy_low"], figures["accuracy_high"]) == pytest.approx(wilson_interval(4, 6))
    assert figures["accuracy_total"] == 6
    assert figures["majority"] == 0.5
    assert figures["above_majority"] == pytest.approx(wilson_interval(4, 6)[0] - 0.5)
    assert figures["accuracy/hallucinated"] == 0.5
    assert figures["accuracy/not_mentioned"] == 1
    assert figures["accuracy/faithful"] == pytest.approx(2 / 3)
    assert figures["accuracy/faithful_low"] == pytest.approx(wilson_interval(2, 3)[0])
    # F1: 2 * 1 * 0.5 / 1.5 = 2/3; precision 1/2 and recall 1: 2/3; precision 2/3 and recall 2/3: 2/3.
    assert figures["macro_f1"] == pytest.approx(2 / 3)


def test_truth_is_measured_apart_from_what_is_mentioned() -> None:
    metrics = SegmentMetrics()
    # Hallucinated, hallucinated, faithful, nothing: the first is named "nothing" but lies on the right side.
    logits = torch.tensor([[1.0, 5.0, 0.0], [0.0, 0.0, 1.0], [0.0, 9.0, 1.0], [0.0, 9.0, 1.0]])
    metrics.update(logits, torch.tensor([0, 0, 2, 1]))
    figures = metrics.compute()
    assert figures["told_apart"] == pytest.approx(2 / 3)
    assert figures["told_apart_total"] == 3
    assert figures["told_apart_low"] == pytest.approx(wilson_interval(2, 3)[0])
    assert figures["told_apart_majority"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == 0.25
    metrics.reset()
    metrics.update(logits[3:], torch.tensor([1]))
    assert "told_apart" not in metrics.compute()


def test_the_loss_weighs_every_sub_sentence_equally() -> None:
    logits, classes = torch.randn(7, 3), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    metrics = SegmentMetrics()
    metrics.update(logits[:2], classes[:2])
    metrics.update(logits[2:], classes[2:])
    assert metrics.compute()["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, classes).item())


def test_nothing_seen_has_no_figures_and_a_reset_forgets() -> None:
    metrics = SegmentMetrics()
    assert metrics.compute() == {}
    metrics.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert metrics.compute() == {}
    metrics.update(logits_for([0]), torch.tensor([0]))
    assert metrics.compute()["accuracy"] == 1
    assert "accuracy/faithful" not in metrics.compute()
    metrics.reset()
    assert metrics.compute() == {}
