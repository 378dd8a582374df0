"""The training loader: knows the size of each optimizer step, counts bad samples, and resumes where it stopped.

Lightning's own distributed sampler is off (``trainer.use_distributed_sampler: false``): it would freeze a curriculum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from torch.utils.data import Dataset

from lit_vlm.data.bad_samples import BadSampleLedger
from lit_vlm.data.batch_plans import BatchPlan
from lit_vlm.data.batch_reader import Reading
from lit_vlm.data.bounded_loader import BoundedLoader
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import BadSample, PromptBatch, Sample, StepTotals


class StepLoader:
    """Yields training batches that carry the label counts of their whole optimizer step.

    The counts span the micro-batches that Lightning accumulates and all ranks, so that a loss can be a true mean over
    the step. Batches of a step are therefore read ahead together. The loader's state counts yielded batches, so a run
    resumes in the middle of an epoch with the batch it would have seen next.

    A batch whose samples are all bad is yielded too, with nothing to learn, so that all ranks take the same steps. The
    ranks tell each other of bad samples and faults once a step, and all of them stop at the same one.

    Args:
        dataset: Samples by index.
        collate: Encodes a list of samples; of none it makes a batch without labels.
        batches: The order.
        accumulation: Tells how many micro-batches make a step.
        limit: Tells how many batches an epoch is cut to, None for no limit.
        ledger: Counts the bad samples; by default the first stops the run.
        refused: Bad samples known beforehand and counted already, named by the first batch.
        options: Passed on to ``BoundedLoader`` (workers, pinning, …).
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        collate: Callable[[Sequence[Sample]], PromptBatch],
        batches: BatchPlan,
        *,
        accumulation: Callable[[], int],
        limit: Callable[[], int | None],
        ledger: BadSampleLedger | None = None,
        refused: Sequence[BadSample] = (),
        **options: Any,
    ) -> None:
        self._batches = batches
        self._collate = collate
        self._accumulation = accumulation
        self._limit = limit
        self._ledger = ledger or BadSampleLedger()
        self._refused = tuple(refused)
        self._loader: BoundedLoader[PromptBatch] = BoundedLoader(dataset, collate, **options)
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
        # Cut here and not while reading, lest workers read what nobody asks for.
        planned = list(itertools.islice(self._batches, end - window_start))
        source = self._loader.read(planned, self._batches.epoch)
        while window := list(itertools.islice(source, self._accumulation())):
            totals = self._agree(window)
            for reading in window[already_seen:]:
                batch = self._collate([]) if reading.batch is None else reading.batch
                dropped = (*self._refused, *reading.dropped)
                self._refused = ()
                self._yielded += 1
                yield replace(batch, step_totals=totals, dropped=dropped)
            already_seen = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch, the batches yielded in it, and the bad samples met so far."""
        return {"epoch": self._batches.epoch, "yielded": self._yielded, "bad_samples": self._ledger.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue from ``state``."""
        self._resume_at = (state["epoch"], state["yielded"])
        self._ledger.restore(state.get("bad_samples", ()))

    def _agree(self, window: Sequence[Reading[PromptBatch]]) -> StepTotals:
        """Adds up what the ranks have to learn in a step, and what went wrong.

        Raises:
            UserError: A rank met a fault, a bad sample where there may be none, or one too many.
        """
        counts = [reading.batch.count() for reading in window if reading.batch is not None]
        fault = next((reading.fault for reading in window if reading.fault is not None), None)
        news = self._ledger.unknown(bad for reading in window for bad in reading.dropped)
        labels, sequences, messages = _sum_over_ranks(
            sum(count.labels for count in counts),
            sum(count.sequences for count in counts),
            len(news) + (fault is not None),
        )
        if messages:
            found: list[BadSample] = []
            for other_fault, other_news in _from_all_ranks((fault, news)):
                if other_fault is not None:
                    raise other_fault
                found.extend(other_news)
            self._ledger.add(found)
        return StepTotals(labels, sequences)


Message = tuple[UserError | None, list[BadSample]]


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _sum_over_ranks(*counts: int) -> list[int]:
    totals = torch.tensor(counts)
    if _is_distributed():
        if torch.distributed.get_backend() == "nccl":
            totals = totals.cuda()
        torch.distributed.all_reduce(totals)
    added: list[int] = totals.tolist()
    return added


def _from_all_ranks(message: Message) -> list[Message]:
    if not _is_distributed():
        return [message]
    messages: list[Message] = [message] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(messages, message)
    return messages
