import pytest
import torch

from lit_vlm.functional.box_overlap import box_areas, generalized_overlap, overlap, pairwise_overlap, points_in_boxes
from lit_vlm.functional.boxes import box_iou


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_the_card_s_numbers():
    first, second = boxes([10, 10, 50, 60]), boxes([20, 20, 60, 60])
    assert overlap(first, second).item() == pytest.approx(0.5)
    assert generalized_overlap(first, second).item() == pytest.approx(0.46)
    assert generalized_overlap(boxes([0, 0, 10, 10]), boxes([20, 20, 30, 30])).item() == pytest.approx(
        -0.777778, abs=1e-6
    )


def test_boxes_without_area_overlap_with_nothing():
    flat = boxes([1, 1, 1, 5], [5, 5, 1, 1], [0, 0, 0, 0])
    for function in (overlap, generalized_overlap):
        assert function(flat, boxes([0, 0, 9, 9])).tolist() == [0, 0, 0]
        assert function(flat, flat).tolist() == [0, 0, 0]
    assert box_areas(flat).tolist() == [0, 0, 0]


def test_many_boxes_at_once_agree_with_one_pair_at_a_time():
    stream = torch.Generator().manual_seed(0)
    corners = torch.rand(7, 2, 2, generator=stream, dtype=torch.float64).sort(1).values.flatten(1)
    table = pairwise_overlap(corners[:3], corners[3:])
    assert table.shape == (3, 4)
    for row in range(3):
        for column in range(4):
            wanted = box_iou(tuple(corners[row].tolist()), tuple(corners[3 + column].tolist()))
            assert table[row, column].item() == pytest.approx(wanted)


def test_generalized_overlap_is_at_most_overlap_and_symmetric():
    stream = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 50, 2, 2, generator=stream).sort(2).values.flatten(2)
    assert (generalized_overlap(first, second) <= overlap(first, second) + 1e-6).all()
    assert torch.equal(generalized_overlap(first, second), generalized_overlap(second, first))
    assert generalized_overlap(first, first).tolist() == pytest.approx([1] * 50)


def test_edges_of_a_box_belong_to_it():
    points = torch.tensor([[0.0, 0.0], [2.0, 1.0], [2.1, 1.0]])
    assert points_in_boxes(points, torch.tensor([0.0, 0.0, 2.0, 1.0])).tolist() == [True, True, False]
