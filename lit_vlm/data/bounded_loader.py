"""Reads batches ahead in worker processes: in order, seeded by rank, and bounded by bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic

from torch.utils.data import Dataset

from lit_vlm.data.batch_reader import Batch, BatchReader, Encode, Reading
from lit_vlm.data.prefetch_gate import PrefetchGate
from lit_vlm.data.worker_processes import READ_AHEAD, start_reading
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.records import Sample


class BoundedLoader(Generic[Batch]):
    """A ``DataLoader`` that holds no more than a number of bytes ahead of what is used.

    Batches and their order are the same whatever the number of workers. Each worker has random streams of its own,
    derived from the seed, and one thread.

    Args:
        samples: Samples by index.
        encode: Encodes a list of samples.
        num_workers: Processes that read and encode; 0 does so here, one batch at a time.
        prefetch_bytes: Most bytes of batches that wait, over all workers; one batch is always read ahead.
        pin_memory: Pins the tensors for a fast copy to the GPU.
        seed: Names the workers' random streams; ranks should have different ones.
    """

    def __init__(
        self,
        samples: Dataset[Sample],
        encode: Encode[Batch],
        *,
        num_workers: int = 0,
        prefetch_bytes: int = 2**30,
        pin_memory: bool = False,
        seed: int = 0,
    ) -> None:
        self._samples = samples
        self._encode: Encode[Batch] = encode
        self._num_workers = num_workers
        self._prefetch_bytes = prefetch_bytes
        self._pin_memory = pin_memory
        self._seed = seed
        self._largest = 0

    @property
    def read_ahead(self) -> int:
        """Batches whose samples the workers know beyond the one that is taken."""
        return READ_AHEAD * self._num_workers

    def read(self, batches: Iterable[Sequence[int]], epoch: int = 0) -> Iterator[Reading[Batch]]:
        """Yields what becomes of each batch, in order.

        Args:
            batches: Sample indices of each batch, drawn no earlier than ``read_ahead`` says. Iterated anew where
                workers have to be started again.
            epoch: Gives the workers other random streams in each.

        Raises:
            UserError: Workers do not start, or one was killed.
        """
        reader, source = start_reading(
            self._reader,
            _Numbered(batches),
            num_workers=self._num_workers,
            # Workers get one draw from this seed, plus their number.
            seed=stream_seed(self._seed, "workers", epoch) >> 1,
            pin_memory=self._pin_memory,
        )
        gate = reader.gate
        try:
            for reading in source:
                if gate is not None:
                    gate.leave(reading.size)
                    self._largest = gate.largest
                yield reading
        finally:
            # The end of the source waits for workers, who wait at the gate until that is closed.
            if gate is not None:
                gate.close()

    def _reader(self) -> BatchReader[Batch]:
        gate = PrefetchGate(self._prefetch_bytes, self._largest) if self._num_workers else None
        return BatchReader(self._samples, self._encode, gate)


class _Numbered:
    """Counts what it iterates over, from 0 on at each iteration."""

    def __init__(self, batches: Iterable[Sequence[int]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[int, Sequence[int]]]:
        return enumerate(self._batches)
