"""How well a policy answers from the places that it chooses to look at itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_vlm.callbacks.readable_numbers import percent_text
from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.functional.boxes import Box, box_iou
from lit_vlm.functional.focus_boxes import crop_to_box, read_focus_box
from lit_vlm.functional.focus_conversation import answer_step, box_step, focus_conversation
from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.capabilities import ProbesPolicy, ServesSamples
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import CoordinateSpace, Sample, Split

MATCH, IOU, READABLE = "focus_match", "focus_iou", "focus_box"


class FocusBoxEvaluation(Callback):
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
        for name, value in (("samples", samples), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"FocusBoxEvaluation.{name} is {value}; give at least 1")
        self.coords = coords
        self.samples = samples
        self.batch_size = batch_size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that there is a policy to ask, and data to ask about.

        Raises:
            UserError: There is not.
        """
        if not isinstance(pl_module, ProbesPolicy):
            raise UserError(
                f"FocusBoxEvaluation asks a policy about samples, which {type(pl_module).__name__} does not offer; "
                "leave it out, or train with a module that does, such as SFTModule"
            )
        data = _data(trainer)
        if not isinstance(data, ServesSamples):
            raise UserError(
                f"FocusBoxEvaluation reads single samples, which the data ({type(data).__name__}) do not serve; leave "
                "it out, or give a DataModule of lit_vlm.data, such as FocusScenes"
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks validation samples."""
        self._evaluate(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks test samples."""
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: Trainer, pl_module: Any, split: Split) -> None:
        samples = _data(trainer).prepared(split)
        total = min(self.samples, len(samples))
        rank, ranks = trainer.global_rank, trainer.world_size
        own = range(rank, total, ranks)
        sums = torch.zeros(4, dtype=torch.float64)
        with isolate_rng(), trainer.precision_plugin.val_step_context():
            # Where ranks hold pieces of the weights, all must ask equally often: the first are asked again for that.
            for call in range(math.ceil(math.ceil(total / ranks) / self.batch_size)):
                places = own[call * self.batch_size : (call + 1) * self.batch_size]
                rows = self._ask(pl_module, [samples[place] for place in places or (0,)])
                if places:
                    sums += rows
        asked, right, overlap, readable = RolloutCallback.sum_over_ranks(trainer, sums).tolist()
        low, high = wilson_interval(round(right), round(asked))
        figures = {
            MATCH: right / asked,
            f"{MATCH}_low": low,
            f"{MATCH}_high": high,
            f"{MATCH}_total": asked,
            IOU: overlap / asked,
            READABLE: readable / asked,
        }
        for name, value in figures.items():
            pl_module.log(f"{split}/{name}", value, batch_size=1)
        rank_zero_info(
            f"{split} with the model's own boxes at step {trainer.global_step} | right answers "
            f"{percent_text(right / asked)} ({percent_text(low)} to {percent_text(high)}) | mean IoU "
            f"{overlap / asked:.3f} | readable boxes {percent_text(readable / asked)}"
        )

    def _ask(self, pl_module: Any, samples: Sequence[Sample]) -> Tensor:
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


def _data(trainer: Any) -> Any:
    return getattr(trainer, "datamodule", None)
