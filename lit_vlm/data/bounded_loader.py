"""Reads batches ahead in worker processes: in order, seeded by rank, and bounded by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from lit_vlm.data.batch_reader import Batch, BatchReader, Encode, Reading
from lit_vlm.data.prefetch_gate import PrefetchGate
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample

Item = TypeVar("Item")


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

    def read(self, batches: Sequence[Sequence[int]], epoch: int = 0) -> Iterator[Reading[Batch]]:
        """Yields what becomes of each batch, in order.

        Args:
            batches: Sample indices of each batch.
            epoch: Gives the workers other random streams in each.

        Raises:
            UserError: A worker was killed.
        """
        gate = PrefetchGate(self._prefetch_bytes, self._largest) if self._num_workers else None
        requests = list(enumerate(batches))
        loader: DataLoader[Reading[Batch]] = DataLoader(
            BatchReader(self._samples, self._encode, gate),
            sampler=requests,  # a request is what the reader takes for an index
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self._num_workers,
            pin_memory=self._pin_memory,
            # Workers get this generator's draw plus their number; the global stream stays untouched.
            generator=torch.Generator().manual_seed(stream_seed(self._seed, "workers", epoch) >> 1),
        )
        # Named, so that it outlives the loop: its end waits for workers, who wait at the gate until that is closed.
        source = iter(loader)
        try:
            for reading in told_of_dead_workers(source):
                if gate is not None:
                    gate.leave(reading.size)
                    self._largest = gate.largest
                yield reading
        finally:
            if gate is not None:
                gate.close()


def told_of_dead_workers(source: Iterator[Item]) -> Iterator[Item]:
    """Passes on what a ``DataLoader`` yields.

    Raises:
        UserError: One of its workers was killed, which torch tells in a text.
    """
    while True:
        try:
            item = next(source)
        except StopIteration:
            return
        except RuntimeError as fault:
            if "DataLoader worker (pid" not in str(fault):
                raise
            reason = str(fault.__cause__ or fault).strip().splitlines()[0]
            raise UserError(
                f"a process that reads data died ({reason.rstrip('.')}), most often for want of memory; lower "
                "data.num_workers, data.prefetch_bytes or the size of batches"
            ) from fault
        yield item


def _as_it_is(reading: Any) -> Any:
    return reading
