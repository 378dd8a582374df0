"""Rewards a set of boxes, matched with the true ones."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_vlm.functional.box_overlap import pairwise_overlap
from lit_vlm.functional.detection_scores import COCO_THRESHOLDS, average_precision, best_pairs, greedy_matches
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, CoordinateSpace
from lit_vlm.parsing.detections import Detection, parse_detections
from lit_vlm.parsing.ground_truth import true_boxes
from lit_vlm.rewards.answer_coordinates import in_gold_space
from lit_vlm.rewards.completion_reward import CompletionReward, answer_text, gold_answer, gold_value

Kind = Literal["greedy_iou", "confidence", "weighted", "map", "ap50", "map_length"]

LABELS = "labels"
"""Entry of ``Sample.meta.extra`` with a label for each true box; where it is absent, labels do not matter."""
MATCH = 0.5
"""IoU of a match, but for average precisions."""


@dataclass(frozen=True)
class DetectionReward(CompletionReward):
    """Scores detected boxes against the true ones, in [0, 1].

    No detection where there is no true box gives 1; detections without a true box, or the reverse, and an answer that
    cannot be read give 0. A malformed detection earns nothing, but counts as one.

    Source:
        ``greedy_iou``, ``confidence``: Visual-RFT ``grpo.py``; ``weighted``, ``map``, ``ap50``, ``map_length``: VLM-R1
        ``grpo_jsonl.py`` (confirmed-in-code). Where a data set gives labels, a greedy match needs equal ones (ours).
    """

    kind: Kind = "weighted"
    """``greedy_iou``: sum of IoU over the larger count; ``confidence``: mean of the confidence of matched detections
    and one minus that of others; ``weighted``: overlap, labels and completeness by the weights below; ``map``: COCO's
    average precision over IoU 0.50 to 0.95; ``ap50``: at 0.50; ``map_length``: ``map`` times ``min(1, true /
    detected)``."""
    iou_weight: float = 0.7
    """``weighted``: of the summed IoU of pairs with the same label, over the true boxes."""
    label_weight: float = 0.0
    """``weighted``: of the pairs with the same label, over the true boxes."""
    completeness_weight: float = 0.3
    """``weighted``: of one minus the mean share of unmatched true and detected boxes."""
    coords: CoordinateSpace | None = None
    """What the model's coordinates count in; None for the space of the true ones."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"kind is {self.kind!r}; give one of {', '.join(get_args(Kind))}")
        weights = (self.iou_weight, self.label_weight, self.completeness_weight)
        if min(weights) < 0 or not 0 < sum(weights) < torch.inf:
            names = "iou_weight, label_weight and completeness_weight"
            raise UserError(f"{names} are {weights}; give 0 or more, and not only 0")

    def score(self, completion: Completion) -> float:
        """Matches the boxes and scores them.

        Raises:
            UserError: The true boxes or labels cannot be read; the message names the sample.
        """
        golds = _true_detections(completion)
        text = answer_text(completion)
        detections = None if text is None else parse_detections(text)
        if detections is None or not golds or not detections:
            return float(detections is not None and not golds and not detections)
        if not any(gold.label for gold in golds):
            detections = [Detection(item.box, "", item.confidence) for item in detections]
        if self.kind in ("greedy_iou", "confidence"):
            return self._greedy(completion, detections, golds)
        overlaps, same = self._overlaps(completion, detections, golds), _same_labels(detections, golds)
        if self.kind == "weighted":
            return self._weighted(overlaps, same)
        thresholds = (MATCH,) if self.kind == "ap50" else COCO_THRESHOLDS
        precisions = []
        for label in dict.fromkeys(gold.label for gold in golds):
            rows = torch.tensor([item.label == label for item in detections])
            columns = torch.tensor([gold.label == label for gold in golds])
            precisions.append(average_precision(overlaps[rows][:, columns], thresholds))
        mean = sum(precisions) / len(precisions)
        return mean * min(1.0, len(golds) / len(detections)) if self.kind == "map_length" else mean

    def _greedy(self, completion: Completion, detections: list[Detection], golds: list[Detection]) -> float:
        # The first of equal boxes stays, whatever its confidence; malformed ones all count.
        seen = {(item.box, item.label): item for item in reversed(detections) if item.box}
        unique = [item for item in detections if item.box is None or seen[item.box, item.label] is item]
        unique.sort(key=lambda item: -item.confidence)
        overlaps = self._overlaps(completion, unique, golds).where(_same_labels(unique, golds), 0.0)
        matches = greedy_matches(overlaps, MATCH, inclusive=False)
        if self.kind == "greedy_iou":
            found = sum(float(overlaps[row, match]) for row, match in enumerate(matches) if match is not None)
            return found / max(len(golds), len(unique))
        earned = [
            item.confidence if match is not None else 1 - item.confidence
            for item, match in zip(unique, matches, strict=True)
            if item.box is not None
        ]
        return sum(earned) / len(unique)

    def _weighted(self, overlaps: Tensor, same: Tensor) -> float:
        detected, true = overlaps.shape
        pairs = best_pairs(overlaps, MATCH)
        right = [(row, column) for row, column in pairs if same[row, column]]
        shared = sum(float(overlaps[row, column]) for row, column in right)
        missing = ((true - len(pairs)) / true + (detected - len(pairs)) / detected) / 2
        weights = self.iou_weight, self.label_weight, self.completeness_weight
        values = shared / true, len(right) / true, 1 - missing
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    def _overlaps(self, completion: Completion, detections: list[Detection], golds: list[Detection]) -> Tensor:
        boxes = [in_gold_space(item.box or (0.0, 0.0, 0.0, 0.0), completion, self.coords) for item in detections]
        wanted = torch.tensor([gold.box for gold in golds], dtype=torch.float64)
        return pairwise_overlap(torch.tensor(boxes, dtype=torch.float64), wanted)


def _same_labels(detections: list[Detection], golds: list[Detection]) -> Tensor:
    return torch.tensor([[item.label == gold.label for gold in golds] for item in detections])


def _true_detections(completion: Completion) -> list[Detection]:
    """Reads the true boxes, perhaps none, with their labels."""
    empty = gold_answer(completion).value in ([], ())
    boxes = [] if empty else gold_value(completion, true_boxes)
    labels = completion.sample.meta.extra.get(LABELS, [""] * len(boxes))
    if not isinstance(labels, (list, tuple)) or len(labels) != len(boxes):
        raise UserError(
            f"sample {completion.sample.id!r} has {len(boxes)} true boxes and the labels {labels!r}; give a list with "
            "a label for each box"
        )
    return [Detection(box, str(label).strip().casefold()) for box, label in zip(boxes, labels, strict=True)]
