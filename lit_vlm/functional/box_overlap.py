"""Overlap of many boxes at once.

Legend: ``N``, ``M`` boxes ``(x1, y1, x2, y2)``, any unit; ``…`` any shape that broadcasts. A box without area overlaps
with nothing.
"""

import torch
from torch import Tensor


def box_areas(boxes: Tensor) -> Tensor:
    """Returns the areas of boxes of shape ``(…, 4)``, 0 where ``x2 <= x1`` or ``y2 <= y1``."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Divides the area that two boxes share by the area they cover together (IoU).

    Args:
        first: Shape ``(…, 4)``.
        second: Shape ``(…, 4)``.

    Returns:
        IoU in [0, 1], shape ``(…,)``, never NaN.

    Example:
        >>> overlap(torch.tensor([10.0, 10, 50, 60]), torch.tensor([20.0, 20, 60, 60])).item()
        0.5
    """
    shared, covered = _shared_and_covered(first, second)
    return torch.where(shared > 0, shared / covered.where(covered > 0, 1), 0.0)


def pairwise_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU of each of ``N`` boxes with each of ``M``, shape ``(N, M)``."""
    return overlap(first[:, None], second[None])


def generalized_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Subtracts from the IoU the share of the smallest enclosing box that neither box covers (GIoU).

    Args:
        first: Shape ``(…, 4)``.
        second: Shape ``(…, 4)``.

    Returns:
        GIoU in (-1, 1], shape ``(…,)``; 0 where either box has no area.

    Source:
        Rezatofighi et al., Generalized Intersection over Union (2019), algorithm 1.
    """
    shared, covered = _shared_and_covered(first, second)
    hull = box_areas(
        torch.cat([torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])], -1)
    )
    whole = (box_areas(first) > 0) & (box_areas(second) > 0)
    covered, hull = covered.where(whole, 1), hull.where(whole, 1)
    return torch.where(whole, shared / covered - (hull - covered) / hull, 0.0)


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Says whether points of shape ``(…, 2)`` lie in boxes of shape ``(…, 4)``, edges included."""
    return ((points >= boxes[..., :2]) & (points <= boxes[..., 2:])).all(-1)


def _shared_and_covered(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    corners = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = box_areas(torch.cat(corners, -1))
    return shared, box_areas(first) + box_areas(second) - shared
