"""Rewards one box or one point."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from lit_vlm.functional.box_overlap import generalized_overlap, overlap, points_in_boxes
from lit_vlm.functional.boxes import Box
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Completion, CoordinateSpace
from lit_vlm.parsing.boxes import parse_point
from lit_vlm.parsing.detections import parse_first_box
from lit_vlm.parsing.ground_truth import true_box, true_boxes
from lit_vlm.rewards.answer_coordinates import in_gold_space
from lit_vlm.rewards.completion_reward import CompletionReward, answer_text, gold_value

Kind = Literal["iou", "iou_threshold", "giou", "giou_plus_one", "point_in_box"]


@dataclass(frozen=True)
class GroundingReward(CompletionReward):
    """Scores the first box of an answer against the true box, or its one point; 0 where there is none.

    Source:
        ``iou``: VLM-R1 ``vlm_modules/qwen_module.py``, which counts inclusive pixels; ``giou_plus_one``: Visual-RFT
        ``grpo_lisa.py``; ``point_in_box``: GTA1 ``src/grpo_grounding.py`` (confirmed-in-code).
    """

    kind: Kind = "iou"
    """``iou``: IoU, in [0, 1]; ``iou_threshold``: 1 from ``threshold`` on; ``giou``: (GIoU + 1) / 2, in [0, 1];
    ``giou_plus_one``: GIoU + 1, in [0, 2]; ``point_in_box``: 1 for a single point in any of the true boxes."""
    threshold: float = 0.5
    """IoU that ``iou_threshold`` needs, above 0 and at most 1."""
    coords: CoordinateSpace | None = None
    """What the model's coordinates count in; None for the space of the true ones."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"kind is {self.kind!r}; give one of {', '.join(get_args(Kind))}")
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}; give an IoU above 0 and at most 1")

    def score(self, completion: Completion) -> float:
        """Compares the box or the point.

        Raises:
            UserError: The true box cannot be read, or is not one where one is wanted; the message names the sample.
        """
        pointed = self.kind == "point_in_box"
        golds = torch.tensor(gold_value(completion, _true_boxes if pointed else _true_box), dtype=torch.float64)
        text = answer_text(completion)
        given = None if text is None else (parse_point(text) if pointed else parse_first_box(text))
        if given is None:
            return 0.0
        numbers = torch.tensor(in_gold_space(given, completion, self.coords), dtype=torch.float64)
        match self.kind:
            case "point_in_box":
                return float(points_in_boxes(numbers, golds).any())
            case "iou":
                return float(overlap(numbers, golds[0]))
            case "iou_threshold":
                return float(overlap(numbers, golds[0]) >= self.threshold)
            case "giou":
                return float((generalized_overlap(numbers, golds[0]) + 1) / 2)
            case _:
                return float(generalized_overlap(numbers, golds[0]) + 1)


def _true_boxes(answer: Answer) -> list[Box]:
    return [true_box(answer)] if answer.type == "point_in_box" else true_boxes(answer)


def _true_box(answer: Answer) -> list[Box]:
    boxes = _true_boxes(answer)
    if len(boxes) != 1:
        raise UserError(f"there are {len(boxes)} true boxes where one is wanted; use DetectionReward for several")
    return boxes
