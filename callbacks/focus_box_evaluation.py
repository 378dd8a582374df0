"""How well a policy answers from the places that it chooses to look at itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_vlm.callbacks.asked_samples import AskedSamples
from lit_vlm.callbacks.readable_numbers import percent_text
from lit_vlm.functional.boxes import Box, box_iou
from lit_vlm.functional.focus_boxes import crop_to_box, read_focus_box
from lit_vlm.functional.focus_conversation import answer_step, box_step, focus_conversation
from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import CoordinateSpace, Sample, Split

MATCH, IOU, READABLE = "focus_match", "focus_iou", "focus_box"


class FocusBoxEvaluation(AskedSamples):
    """Asks held-out questions in both steps: the policy writes a box, is shown its crop, and answers.

    What a module measures itself is the last step, behind the true box. At the end of each validation and test, logged
    beside that with the same prefix (``validation/`` or ``test/``):

    - ``focus_match``: share of right answers, with ``_low`` and ``_high``, the bounds of its 95 % interval, and
      ``_total``;
    - ``focus_iou``: mean IoU of the chosen boxes with the true ones;
    - ``focus_box``: share of boxes that could be read.

    Where none could be, IoU is 0 and the answer counts as wrong. Crops have the longer side of the sample's own crop.

    Args:
        coords: What the coordinates of the boxes count in.
        samples: Samples of the split that are asked, at most, from the first on.
        batch_size: Samples that are asked at once.
    """

    def __init__(self, coords: CoordinateSpace = "norm1", samples: int = 256, batch_size: int = 64) -> None:
        super().__init__(samples, batch_size)
        self.coords = coords

    def tell(self, sums: Sequence[float], split: Split, total: int) -> tuple[dict[str, float], str]:
        """Makes shares and the mean of the sums."""
        asked, right, overlap, readable = sums
        low, high = wilson_interval(round(right), round(asked))
        figures = {
            MATCH: right / asked,
            f"{MATCH}_low": low,
            f"{MATCH}_high": high,
            f"{MATCH}_total": asked,
            IOU: overlap / asked,
            READABLE: readable / asked,
        }
        return figures, (
            f"with the model's own boxes | right answers {percent_text(right / asked)} "
            f"({percent_text(low)} to {percent_text(high)}) | mean IoU {overlap / asked:.3f} | readable boxes "
            f"{percent_text(readable / asked)}"
        )

    def ask(self, pl_module: Any, samples: Sequence[Sample]) -> Tensor:
        """Asks samples in both steps; returns how many, and sums of right answers, IoU and readable boxes."""
        boxes = []
        looks = []
        proposals = pl_module.complete([box_step(sample) for sample in samples])
        for sample, proposal in zip(samples, proposals, strict=True):
            pieces = focus_conversation(sample)
            image = open_image(sample.images[pieces.image])
            box = read_focus_box(proposal.text, self.coords, image.size)
            boxes.append((box, self._true_box(sample, pieces.box.text, image.size)))
            # An unreadable box is answered too, from the whole image, so that all ranks ask equally often.
            shown = box or (0.0, 0.0, float(image.width), float(image.height))
            longest = max(open_image(sample.images[pieces.crop]).size)
            looks.append(answer_step(sample, proposal.text, crop_to_box(image, shown, longest)))
        answers = pl_module.complete(looks)
        right = overlap = readable = 0.0
        for (box, truth), answer in zip(boxes, answers, strict=True):
            if box is not None:
                readable += 1
                overlap += box_iou(box, truth)
                right += answer.verdict is not None and answer.verdict.correct
        return torch.tensor([len(samples), right, overlap, readable], dtype=torch.float64)

    def _true_box(self, sample: Sample, text: str, size: tuple[int, int]) -> Box:
        box = read_focus_box(text, self.coords, size)
        if box is None:
            raise BadSampleError(
                sample.meta.origin or sample.id,
                f"its own first turn of the assistant, {text[:40]!r}, is no box in {self.coords} coordinates, so that "
                "FocusBoxEvaluation cannot compare with it",
            )
        return box
