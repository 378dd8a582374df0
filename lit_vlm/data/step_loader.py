"""The training loader: shards by rank, knows the size of each optimizer step, and resumes where it stopped.

Lightning's own distributed sampler is off (``trainer.use_distributed_sampler: false``): it would freeze a curriculum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.records import PromptBatch, Sample, StepTotals


class ShardedBatches(Sampler[list[int]]):
    """Deals one shuffled order to all ranks: global batch ``k`` is the same set of samples on any number of ranks.

    Args:
        length: Samples in the data set.
        batch_size: Samples a batch on each rank.
        rank: This process.
        world_size: Processes in all.
        seed: Names the order.
        shuffle_batches: Shuffles whole global batches and keeps their samples together, for data laid out in runs of
            one kind (and so of one length).
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        shuffle_batches: bool = False,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.shuffle_batches = shuffle_batches
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        # A last global batch that is not full is left out, so that all ranks take the same steps.
        return self.length // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self) if self.shuffle_batches else self.length))
        random_stream(self.seed, "order", self.epoch).shuffle(order)
        size = self.batch_size * self.world_size
        for batch in range(self.first_batch, len(self)):
            if self.shuffle_batches:
                start = order[batch] * size
                shared = list(range(start, min(start + size, self.length)))
            else:
                shared = order[batch * size : (batch + 1) * size]
            yield shared[self.rank :: self.world_size]


class StepLoader:
    """Yields training batches that carry the label counts of their whole optimizer step.

    The counts span the micro-batches that Lightning accumulates and all ranks, so that a loss can be a true mean over
    the step. Batches of a step are therefore read ahead together. The loader's state counts yielded batches, so a run
    resumes in the middle of an epoch with the batch it would have seen next.

    Args:
        dataset: Samples by index.
        collate: Encodes a list of samples.
        batches: The order.
        accumulation: Tells how many micro-batches make a step.
        limit: Tells how many batches an epoch is cut to, None for no limit.
        options: Passed on to ``DataLoader`` (workers, pinning, …).
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        collate: Callable[[Sequence[Sample]], PromptBatch],
        batches: ShardedBatches,
        *,
        accumulation: Callable[[], int],
        limit: Callable[[], int | None],
        **options: Any,
    ) -> None:
        self._batches = batches
        self._accumulation = accumulation
        self._limit = limit
        self._loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)
        self._yielded = 0
        self._resume_at: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[PromptBatch]:
        # Lightning never exhausts a sized loader, so an epoch ends where the next begins.
        if self._resume_at is not None:
            self._batches.epoch, self._yielded = self._resume_at
            self._resume_at = None
        elif self._yielded:
            self._batches.epoch += 1
            self._yielded = 0
        limit = self._limit()
        end = len(self) if limit is None else min(len(self), limit)
        window_start = self._yielded - self._yielded % self._accumulation()
        already_seen = self._yielded - window_start
        self._batches.first_batch = window_start
        source = itertools.islice(self._loader, end - window_start)
        while window := list(itertools.islice(source, self._accumulation())):
            totals = _sum_over_ranks([batch.count() for batch in window])
            for batch in window[already_seen:]:
                self._yielded += 1
                yield replace(batch, step_totals=totals)
            already_seen = 0

    def state_dict(self) -> dict[str, int]:
        """Returns epoch and batches yielded in it."""
        return {"epoch": self._batches.epoch, "yielded": self._yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration continue from ``state``."""
        self._resume_at = (state["epoch"], state["yielded"])


def _sum_over_ranks(counts: Sequence[StepTotals]) -> StepTotals:
    totals = torch.tensor([[count.labels, count.sequences] for count in counts]).sum(0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        if torch.distributed.get_backend() == "nccl":
            totals = totals.cuda()
        torch.distributed.all_reduce(totals)
    labels, sequences = totals.tolist()
    return StepTotals(labels, sequences)
