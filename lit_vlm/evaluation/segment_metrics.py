"""The figures of a model that judges sub-sentences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryConfusionMatrix, MulticlassConfusionMatrix, MulticlassF1Score

from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.records import IGNORED_LABEL
from lit_vlm.interfaces.segments import SEGMENT_CLASSES

NOT_MENTIONED = SEGMENT_CLASSES.index("not_mentioned")


class SegmentMetrics(nn.Module):
    """Collects over batches and ranks how sub-sentences were judged."""

    def __init__(self) -> None:
        super().__init__()
        classes = len(SEGMENT_CLASSES)
        self.loss = MeanMetric()
        self.confusion = MulticlassConfusionMatrix(classes, ignore_index=IGNORED_LABEL)
        self.sides = BinaryConfusionMatrix(ignore_index=IGNORED_LABEL)
        self.macro_f1 = MulticlassF1Score(classes, average="macro", ignore_index=IGNORED_LABEL)
        self.reset()

    def update(self, logits: Tensor, classes: Tensor) -> None:
        """Counts the sub-sentences of a batch.

        Args:
            logits: Scores of ``SEGMENT_CLASSES``, shape ``(N, 3)``.
            classes: The true ones by number, shape ``(N,)``.
        """
        if not len(classes):
            return
        self.loss.update(nn.functional.cross_entropy(logits, classes), len(classes))
        predicted = logits.argmax(-1)
        self.confusion.update(predicted, classes)
        self.macro_f1.update(predicted, classes)
        is_true = classes.div(2, rounding_mode="floor").where(classes != NOT_MENTIONED, IGNORED_LABEL)
        self.sides.update((logits[:, 2] > logits[:, 0]).long(), is_true)

    def compute(self) -> dict[str, float]:
        """Returns the figures seen so far, by name; none where nothing was seen.

        ``accuracy`` and ``accuracy/CLASS`` (the share of a class's sub-sentences that are found) come with 95 % Wilson
        intervals, as ``_low`` and ``_high``, and with ``_total``. ``majority`` is the accuracy of always naming the
        most frequent class, ``above_majority`` what the lower bound of ``accuracy`` exceeds it by. ``macro_f1`` is the
        mean of the classes' F1, those left out that neither occur nor were named.

        ``told_apart`` is the share of hallucinated and faithful sub-sentences whose likelier class of the two is right,
        ``told_apart_majority`` that of always naming one: whether something is mentioned can be read from a sentence
        alone, but not whether it is true.
        """
        # Every rank computes every figure: one without observations would else leave the others waiting.
        loss, macro_f1 = float(self.loss.compute()), float(self.macro_f1.compute())
        counts, sides = self.confusion.compute(), self.sides.compute()
        total = int(counts.sum())
        if not total:
            return {}
        majority = int(counts.sum(1).max()) / total
        figures = {"loss": loss, "macro_f1": macro_f1, "majority": majority}
        figures |= _proportion("accuracy", int(counts.trace()), total)
        figures["above_majority"] = figures["accuracy_low"] - majority
        if mentioned := int(sides.sum()):
            figures |= _proportion("told_apart", int(sides.trace()), mentioned)
            figures["told_apart_majority"] = int(sides.sum(1).max()) / mentioned
        for number, name in enumerate(SEGMENT_CLASSES):
            figures |= _proportion(f"accuracy/{name}", int(counts[number, number]), int(counts[number].sum()))
        return figures

    def reset(self) -> None:
        """Forgets everything seen."""
        for metric in (self.loss, self.confusion, self.sides, self.macro_f1):
            metric.reset()
        # Observations that do not count: a rank that never sees a batch still takes part in the sums.
        device = self.confusion.device
        predicted, ignored = torch.zeros(1, dtype=torch.long, device=device), torch.full((1,), IGNORED_LABEL).to(device)
        self.loss.update(0.0, 0.0)
        for metric in (self.confusion, self.sides, self.macro_f1):
            metric.update(predicted, ignored)


def _proportion(name: str, successes: int, total: int) -> dict[str, float]:
    if not total:
        return {}
    low, high = wilson_interval(successes, total)
    return {name: successes / total, f"{name}_low": low, f"{name}_high": high, f"{name}_total": float(total)}
