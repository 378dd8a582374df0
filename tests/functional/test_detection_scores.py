import pytest
import torch

from lit_vlm.functional.detection_scores import average_precision, best_pairs, greedy_matches


def test_detections_take_the_best_free_box_in_turn():
    overlaps = torch.tensor([[0.6, 0.7], [0.1, 0.9], [0.5, 0.0]])
    assert greedy_matches(overlaps, 0.5) == [1, None, 0]
    assert greedy_matches(overlaps, 0.5, inclusive=False) == [1, None, None]
    assert greedy_matches(torch.zeros(2, 0), 0.5) == [None, None]


def test_the_best_pair_goes_first_whatever_the_order():
    overlaps = torch.tensor([[0.6, 0.7], [0.1, 0.9]])
    assert best_pairs(overlaps, 0.5) == [(1, 1), (0, 0)]
    assert best_pairs(overlaps, 0.8) == [(1, 1)]
    assert best_pairs(torch.zeros(0, 2), 0.5) == []


def test_average_precision_of_hits_and_misses():
    hit, miss = [1.0, 0.0], [0.0, 0.0]
    # One of two found first: 51 of the 101 recalls at precision 1.
    assert average_precision(torch.tensor([hit, miss])) == pytest.approx(51 / 101)
    # Found second: the same recalls at precision 1/2.
    assert average_precision(torch.tensor([miss, hit])) == pytest.approx(51 / 101 / 2)
    assert average_precision(torch.eye(2)) == pytest.approx(1)
    assert average_precision(torch.zeros(0, 2)) == 0


def test_thresholds_are_averaged_and_reached_by_equality():
    assert average_precision(torch.tensor([[0.9]], dtype=torch.float64)) == pytest.approx(0.9)
    assert average_precision(torch.tensor([[0.5]]), (0.5,)) == 1


def test_detections_after_the_hundredth_do_not_count():
    overlaps = torch.zeros(101, 1)
    overlaps[100] = 1.0
    assert average_precision(overlaps) == 0
