"""The loader of validation, test and predict batches: in order, each rank its share, nothing lost silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset

from lit_vlm.data.bad_samples import BadSampleLedger, first_of
from lit_vlm.data.batch_reader import dropped_of, with_dropped
from lit_vlm.data.bounded_loader import BoundedLoader
from lit_vlm.interfaces.batches import EvaluationBatch
from lit_vlm.interfaces.errors import TooManyBadSamplesError
from lit_vlm.interfaces.records import BadSample, Sample


class EvaluationLoader:
    """Yields evaluation batches that name the samples left out of them.

    A batch whose samples are all bad is not yielded, and a neighbour names its samples. Each rank counts for itself
    against the limit, since ranks may have different numbers of batches.

    Args:
        dataset: Samples by index.
        collate: Encodes a list of samples.
        indices: This rank's samples, in order.
        batch_size: Samples of a batch.
        ledger: Counts the bad samples; by default the first stops the run.
        options: Passed on to ``BoundedLoader`` (workers, pinning, …).
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        collate: Callable[[Sequence[Sample]], EvaluationBatch],
        indices: Sequence[int],
        batch_size: int,
        *,
        ledger: BadSampleLedger | None = None,
        **options: Any,
    ) -> None:
        self._batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        self._ledger = ledger or BadSampleLedger()
        self._loader: BoundedLoader[EvaluationBatch] = BoundedLoader(dataset, collate, **options)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        # Held back by one, so that the last batch can name the bad samples of a lost one after it.
        held: EvaluationBatch | None = None
        lost: list[BadSample] = []
        for reading in self._loader.read(self._batches):
            if reading.fault is not None:
                raise reading.fault
            self._ledger.add(reading.dropped)
            if reading.batch is None:
                lost.extend(reading.dropped)
                continue
            if held is not None:
                yield held
            held = with_dropped(reading.batch, (*lost, *dropped_of(reading.batch)))
            lost = []
        if held is not None:
            yield with_dropped(held, (*dropped_of(held), *lost))
        elif lost:
            raise TooManyBadSamplesError(
                f"not one sample of this evaluation can be used; {first_of(lost)}", tuple(lost)
            )
