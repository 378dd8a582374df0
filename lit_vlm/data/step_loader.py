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
from lit_vlm.data.batch_plans import BatchPlan, Place
from lit_vlm.data.batch_reader import Reading
from lit_vlm.data.bounded_loader import BoundedLoader
from lit_vlm.data.transformed_samples import PreparedSamples
from lit_vlm.interfaces.batches import StepTotals, TrainingBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import BadSample, Sample


class StepLoader:
    """Yields training batches that carry the label counts of their whole optimizer step.

    The counts span the micro-batches that Lightning accumulates and all ranks, so that a loss can be a true mean over
    the step; batches without labels carry none. Batches of a step are therefore read ahead together.

    The loader's state counts yielded batches, so a run resumes in the middle of an epoch with the batch it would have
    seen next, or with the first of those that no update has used yet. These move all that follow, so that a resumed
    run goes through the same batches as the uninterrupted one, in epochs that end so many batches earlier.

    While a step is trained on, its batches and the ``BoundedLoader.read_ahead`` batches after them are decided, also
    where these belong to the next epoch. So what changes the plan then acts on the batch that follows them, at every
    place of the run alike, whatever the workers have done so far.

    A batch whose samples are all bad is yielded too, with nothing to learn, so that all ranks take the same steps. The
    ranks tell each other of bad samples and faults once a step, and all of them stop at the same one.

    Args:
        dataset: Samples by index.
        collate: Encodes a list of samples; of none it makes a batch with nothing to learn.
        batches: The order.
        accumulation: Tells how many micro-batches make a step.
        limit: Tells how many batches an epoch is cut to, None for no limit.
        unfinished: Tells how many of the last batches are to be yielded again by a run that resumes now.
        ledger: Counts the bad samples; by default the first stops the run.
        refused: Bad samples known from elsewhere and counted already, named by the next batch; it may grow.
        options: Passed on to ``BoundedLoader`` (workers, pinning, …).
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        collate: Callable[[Sequence[Sample]], TrainingBatch],
        batches: BatchPlan,
        *,
        accumulation: Callable[[], int],
        limit: Callable[[], int | None],
        unfinished: Callable[[], int],
        ledger: BadSampleLedger | None = None,
        refused: Sequence[BadSample] = (),
        **options: Any,
    ) -> None:
        self._plan = batches
        self._collate = collate
        self._accumulation = accumulation
        self._limit = limit
        self._unfinished = unfinished
        self._ledger = ledger or BadSampleLedger()
        self._refused = refused
        self._named = 0  # of those refused
        self._samples = _SamplesInEpochs(dataset)
        self._loader: BoundedLoader[TrainingBatch] = BoundedLoader(self._samples, collate, **options)
        self._epoch = 0
        self._yielded = 0  # in this epoch
        self._behind = 0  # batches that were yielded again, by which the plan lags behind the epochs
        self._since_start = 0  # batches yielded since the run began or resumed
        self._is_resumed = False

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[TrainingBatch]:
        limit = self._limit()
        end = len(self) if limit is None else min(len(self), limit)
        # Lightning never exhausts a sized loader, so an epoch ends where the next begins; a run that resumes after the
        # last batch asks for the next epoch.
        if self._yielded and (self._yielded >= end or not self._is_resumed):
            self._epoch += 1
            self._yielded = 0
        self._is_resumed = False
        already_seen = self._yielded % self._accumulation()
        start = self._epoch * end - self._behind
        window_start = start + self._yielded - already_seen
        # Cut here and not while reading, lest workers read what nobody asks for.
        planned = _PlannedBatches(self._plan, end, range(window_start, start + end), self._samples)
        source = self._loader.read(planned, self._epoch)
        while window := list(itertools.islice(source, self._accumulation())):
            totals = self._agree(window)
            kept_from, window_start = window_start - self._to_repeat(), window_start + len(window)
            self._plan.settle(planned.places(range(kept_from, window_start + self._loader.read_ahead)))
            for reading in window[already_seen:]:
                batch = self._collate([]) if reading.batch is None else reading.batch
                dropped = (*self._refused[self._named :], *reading.dropped)
                self._named = len(self._refused)
                self._yielded += 1
                self._since_start += 1
                yield replace(batch, step_totals=totals if batch.has_targets else None, dropped=dropped)
            already_seen = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns where the run is in its epoch and in the plan, and the bad samples met so far, as plain data."""
        return {
            "epoch": self._epoch,
            "yielded": self._yielded,
            "behind": self._behind + self._to_repeat(),
            "bad_samples": self._ledger.state(),
            "plan": self._plan.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration continue from ``state``.

        Raises:
            UserError: The plan of the data cannot continue from it.
        """
        self._epoch, self._yielded, self._behind = state["epoch"], state["yielded"], state.get("behind", 0)
        self._since_start = 0
        self._is_resumed = True
        self._ledger.restore(state.get("bad_samples", ()))
        self._plan.restore(state.get("plan", {}))

    def _to_repeat(self) -> int:
        """Counts the batches that a run that resumes now would see again; what was not yielded cannot be."""
        return min(self._unfinished(), self._since_start)

    def _agree(self, window: Sequence[Reading[TrainingBatch]]) -> StepTotals:
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


class _SamplesInEpochs(Dataset[Sample]):
    """Samples as they are trained on in an epoch, all of one epoch after those of the one before."""

    def __init__(self, samples: Dataset[Sample]) -> None:
        self._samples = samples

    def position(self, index: int, epoch: int) -> int:
        """Tells where a sample of an epoch stands."""
        return epoch * self._size + index

    def __getitem__(self, position: int) -> Sample:
        epoch, index = divmod(position, self._size)
        return self._samples.at(index, epoch) if isinstance(self._samples, PreparedSamples) else self._samples[index]

    @property
    def _size(self) -> int:
        return len(self._samples)  # type: ignore[arg-type]


class _PlannedBatches:
    """Batches of a plan by their position in the run, asked for when they are needed."""

    def __init__(self, plan: BatchPlan, epoch_length: int, positions: range, samples: _SamplesInEpochs) -> None:
        self._plan = plan
        self._epoch_length = epoch_length
        self._positions = positions
        self._samples = samples

    def __iter__(self) -> Iterator[list[int]]:
        for place in self.places(self._positions):
            yield [self._samples.position(index, place[0]) for index in self._plan.batch(place)]

    def places(self, positions: range) -> list[Place]:
        """Tells the epoch of each position, and the number within."""
        return [divmod(position, self._epoch_length) for position in positions]


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
