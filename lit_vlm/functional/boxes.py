"""Overlap of boxes and of intervals, and one-to-one matching; plain floats, for a handful of boxes at a time."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; ``x1 < x2`` and ``y1 < y2``, any unit."""


def box_iou(first: Box, second: Box) -> float:
    """Divides the area two boxes share by the area they cover together.

    Returns:
        The intersection over union, in [0, 1]. Edges have no width: boxes that only touch share nothing.

    Example:
        >>> box_iou((0, 0, 2, 2), (1, 0, 3, 2))
        0.3333333333333333
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    covered = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - shared
    return shared / covered


def interval_iou(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Divides the length two intervals share by the length they cover together.

    Example:
        >>> interval_iou((0, 2), (1, 3))
        0.3333333333333333
    """
    shared = min(first[1], second[1]) - max(first[0], second[0])
    if shared <= 0:
        return 0.0
    return shared / ((first[1] - first[0]) + (second[1] - second[0]) - shared)


def matched_boxes(first: Sequence[Box], second: Sequence[Box], threshold: float) -> int:
    """Counts the pairs of the largest one-to-one matching in which each pair overlaps enough.

    Args:
        first: Boxes of one side.
        second: Boxes of the other side.
        threshold: IoU from which a pair may be matched, in (0, 1].

    Returns:
        The number of pairs, at most the shorter side's length; the order of the boxes does not matter.

    Example:
        >>> matched_boxes([(0, 0, 2, 2), (5, 5, 6, 6)], [(5, 5, 6, 6)], threshold=0.5)
        1
    """
    return largest_matching(
        [[index for index, other in enumerate(second) if box_iou(box, other) >= threshold] for box in first]
    )


def largest_matching(neighbours: Sequence[Sequence[int]]) -> int:
    """Counts the pairs of a largest matching between rows and the columns each row may take.

    A greedy choice may block a row that has a single column; augmenting paths move the earlier row away.

    Args:
        neighbours: For each row the indices of its columns.

    Returns:
        The number of rows that get a column of their own.

    Example:
        >>> largest_matching([[0, 1], [0]])
        2
    """
    row_of: dict[int, int] = {}
    column_of: dict[int, int] = {}
    for start in range(len(neighbours)):
        reached_from: dict[int, int] = {}
        frontier = [start]
        free: int | None = None
        while frontier and free is None:
            row = frontier.pop()
            for column in neighbours[row]:
                if column in reached_from:
                    continue
                reached_from[column] = row
                if column not in row_of:
                    free = column
                    break
                frontier.append(row_of[column])
        while free is not None:
            row = reached_from[free]
            given_up = column_of.get(row)
            row_of[free], column_of[row] = row, free
            free = given_up
    return len(row_of)
