"""Scores of a set of detected boxes against the true ones.

Legend: ``N`` detections in the order in which they were given, ``M`` true boxes. ``overlaps`` is their IoU, shape
``(N, M)``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RECALL_POINTS = 101
MOST_DETECTIONS = 100
"""Detections of a class that count in an average precision."""
COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


def greedy_matches(overlaps: Tensor, threshold: float, inclusive: bool = True) -> list[int | None]:
    """Lets each detection in turn take the best true box that is still free.

    Args:
        overlaps: Shape ``(N, M)``.
        threshold: IoU that is needed.
        inclusive: Whether the threshold itself is enough.

    Returns:
        For each detection the index of its true box, None where it got none.
    """
    free = overlaps.clone()
    matches: list[int | None] = []
    for row in free:
        best = int(row.argmax()) if row.numel() else 0
        value = float(row[best]) if row.numel() else -1.0
        taken = value >= threshold if inclusive else value > threshold
        matches.append(best if taken else None)
        if taken:
            free[:, best] = -1.0
    return matches


def best_pairs(overlaps: Tensor, threshold: float) -> list[tuple[int, int]]:
    """Takes the free pair of the highest IoU, again and again, while it reaches a threshold.

    Args:
        overlaps: Shape ``(N, M)``.
        threshold: IoU that is needed, above 0.

    Returns:
        Pairs of a detection and a true box, from the best on.
    """
    free = overlaps.clone()
    pairs: list[tuple[int, int]] = []
    while free.numel():
        detection, true = divmod(int(free.argmax()), free.shape[1])
        if float(free[detection, true]) < threshold:
            break
        pairs.append((detection, true))
        free[detection], free[:, true] = -1.0, -1.0
    return pairs


def average_precision(overlaps: Tensor, thresholds: Sequence[float] = COCO_THRESHOLDS) -> float:
    """Returns the area under the curve of precision over recall, a mean over thresholds; COCO's rule for one image.

    The order of the detections is their rank; those after the first 100 do not count.

    Args:
        overlaps: Of the detections of one class with its true boxes, shape ``(N, M)`` with ``M`` at least 1.
        thresholds: IoU from which a detection is right.

    Returns:
        The average precision, interpolated at 101 recalls, in [0, 1].

    Source:
        COCO's evaluation; equal to pycocotools.
    """
    overlaps = overlaps[:MOST_DETECTIONS].double()
    if not len(overlaps):
        return 0.0
    recalls = torch.linspace(0, 1, RECALL_POINTS, dtype=torch.float64)
    ranks = torch.arange(1, len(overlaps) + 1)
    areas = []
    for threshold in thresholds:
        right = torch.tensor([match is not None for match in greedy_matches(overlaps, threshold)]).cumsum(0)
        precision = (right / ranks).double().flip(0).cummax(0).values.flip(0)
        places = torch.searchsorted((right / overlaps.shape[1]).double(), recalls)
        reached = places < len(precision)
        areas.append(float(precision[places.clamp(max=len(precision) - 1)].where(reached, 0.0).mean()))
    return sum(areas) / len(areas)
