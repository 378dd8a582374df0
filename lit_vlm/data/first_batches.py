"""Looks at the first batches of an epoch before training: what they cost in tokens, and the largest of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lit_vlm.data.batch_plans import BatchPlan
from lit_vlm.interfaces.batches import TrainingBatch
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.memory import FirstBatches
from lit_vlm.interfaces.records import Sample, TokenCount


def look_ahead(
    plan: BatchPlan,
    samples: Any,
    count: Callable[[Sample], TokenCount],
    encode: Callable[[Sequence[Sample]], TrainingBatch],
    most: int,
) -> FirstBatches | None:
    """Counts the tokens of the first batches of the first epoch, and encodes the largest.

    Samples that cannot be read or encoded are passed over: the run names them itself.

    Args:
        plan: Tells the batches; it is asked, not moved.
        samples: Samples by index.
        count: Counts the tokens of one.
        encode: Makes the batch.
        most: Batches to look at.

    Returns:
        None where no sample of these batches is of any use.
    """
    rows: list[tuple[int, list[Sample], TokenCount]] = []
    images = 0
    for place in range(min(most, len(plan))):
        kept: list[Sample] = []
        text = media = longest = 0
        for index in plan.batch((0, place)):
            try:
                sample = samples[index]
                tokens = count(sample)
            except BadSampleError:
                continue
            kept.append(sample)
            text, media, longest = text + tokens.text, media + tokens.media, max(longest, tokens.total)
            images += len(sample.images)
        rows.append((longest * len(kept), kept, TokenCount(text, media)))
    encoded = None
    # Padded, as passes are: the most rows times the longest.
    for _, kept, _ in sorted(rows, key=lambda row: -row[0]):
        encoded = _encoded(kept, encode)
        if encoded is not None:
            break
    if encoded is None:
        return None
    return FirstBatches(
        largest=encoded,
        tokens=tuple(counted for _, _, counted in rows),
        samples=tuple(len(kept) for _, kept, _ in rows),
        images=images,
    )


class LooksAhead:
    """A DataModule that can look at its first batches; see ``VLMDataModule``."""

    _plan: Callable[[int, int], BatchPlan]
    _rank: Callable[[], tuple[int, int]]
    _encode: Any
    _count: Any
    prepared: Callable[..., Any]

    def first_batches(self, most: int) -> FirstBatches | None:
        """Looks at the first batches of this rank; see ``look_ahead``.

        Args:
            most: Batches to look at.
        """
        return look_ahead(self._plan(*self._rank()), self.prepared("train"), self._count, self._encode, most)


def _encoded(kept: Sequence[Sample], encode: Callable[[Sequence[Sample]], TrainingBatch]) -> TrainingBatch | None:
    try:
        batch = encode(kept) if kept else None
    except BadSampleError:
        usable = [sample for sample in kept if _is_usable(sample, encode)]
        batch = encode(usable) if usable else None
    return batch


def _is_usable(sample: Sample, encode: Callable[[Sequence[Sample]], TrainingBatch]) -> bool:
    try:
        encode([sample])
    except BadSampleError:
        return False
    return True
