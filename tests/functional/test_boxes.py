import itertools
import random

import pytest

from lit_vlm.functional.boxes import box_iou, interval_iou, largest_matching, matched_boxes


def test_overlap_of_boxes_is_shared_area_over_covered_area():
    # Shared 1 x 1 = 1, covered 4 + 4 - 1 = 7.
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    # Small units count alike: the same boxes divided by 4 (VLM-R1's inclusive pixels give 0 here).
    assert box_iou((0, 0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75)) == pytest.approx(1 / 7)


def test_overlap_is_symmetric_and_one_for_the_same_box():
    first, second = (0.0, 0.0, 3.0, 2.0), (1.0, 1.0, 5.0, 4.0)
    assert box_iou(first, second) == box_iou(second, first)
    assert box_iou(first, first) == 1.0


def test_boxes_that_touch_or_lie_apart_share_nothing():
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0
    assert box_iou((0, 0, 1, 1), (5, 5, 6, 6)) == 0.0


def test_overlap_of_intervals_is_shared_length_over_covered_length():
    # Shared 2, covered 8.
    assert interval_iou((0, 5), (3, 8)) == pytest.approx(2 / 8)
    assert interval_iou((0, 1), (1, 2)) == 0.0
    assert interval_iou((1, 2), (1, 2)) == 1.0


def test_a_greedy_choice_does_not_block_a_later_box():
    # The first true box overlaps both given ones enough (1 and 0.8), the second only the first given one (0.8).
    wanted = [(0, 0, 10, 10), (0, 0, 10, 8)]
    given = [(0, 0, 10, 10), (0, 2, 10, 10)]
    assert matched_boxes(wanted, given, threshold=0.7) == 2


def test_one_box_matches_only_once():
    box = (0.0, 0.0, 1.0, 1.0)
    assert matched_boxes([box, box], [box], threshold=0.5) == 1
    assert matched_boxes([], [box], threshold=0.5) == 0


def test_the_matching_is_as_large_as_the_best_of_all_orders():
    stream = random.Random(0)
    for _ in range(100):
        rows, columns = stream.randint(1, 4), 4
        neighbours = [[column for column in range(columns) if stream.random() < 0.4] for _ in range(rows)]
        best = max(
            sum(column in neighbours[row] for row, column in enumerate(order))
            for order in itertools.permutations(range(columns), rows)
        )
        assert largest_matching(neighbours) == best


def test_a_long_chain_is_matched_without_recursion():
    # Row i may take columns i - 1 and i: every row can have one, but only by moving all the others along.
    neighbours = [[max(row - 1, 0), row] for row in range(3000)]
    assert largest_matching(neighbours) == 3000
