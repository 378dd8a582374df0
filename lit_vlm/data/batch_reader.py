"""Reads and encodes one batch, leaving out the samples that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

from torch import Tensor
from torch.utils.data import Dataset

from lit_vlm.data.prefetch_gate import PrefetchGate
from lit_vlm.interfaces.batches import CompletionSet, EvaluationBatch, PromptBatch, TrainingBatch
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, MediaRef, Sample

Batch = TypeVar("Batch", bound=TrainingBatch | EvaluationBatch)
Encode = Callable[[Sequence[Sample]], Batch]


@dataclass
class Reading(Generic[Batch]):
    """What became of a batch in a worker process."""

    batch: Batch | None = None
    """The encoded batch; None where no sample was left, or something else went wrong."""
    dropped: tuple[BadSample, ...] = ()
    """Samples that were left out, also in the batch's own ``dropped``."""
    fault: UserError | None = None
    """A mistake of the user that concerns more than one sample."""
    size: int = 0
    """Bytes of the batch."""

    def pin_memory(self) -> Reading[Batch]:
        """Pins the tensors for a fast copy to the GPU."""
        return self if self.batch is None else replace(self, batch=cast(Batch, self.batch.pin_memory()))


class BatchReader(Dataset[Reading[Batch]], Generic[Batch]):
    """A data set of whole batches: asked for a number and sample indices, it reads and encodes them.

    What goes wrong is returned, not raised: out of a worker process an exception would come as a text.

    Args:
        samples: Samples by index; reading one may raise ``BadSampleError``.
        encode: Encodes samples; it may raise ``BadSampleError`` too.
        gate: Bounds what is read ahead; None lets everything in.
    """

    def __init__(self, samples: Dataset[Sample], encode: Encode[Batch], gate: PrefetchGate | None = None) -> None:
        self._samples = samples
        self._encode: Encode[Batch] = encode
        self.gate = gate

    def __getitem__(self, request: tuple[int, Sequence[int]]) -> Reading[Batch]:
        number, indices = request
        reserved = 0 if self.gate is None else self.gate.enter(number)
        try:
            reading = self._read(indices)
        except UserError as fault:
            reading = Reading(fault=fault)
        except OSError as error:
            if error.filename is None:
                raise
            # It was there when the run began.
            reading = Reading(
                fault=UserError(
                    f"{error.filename} cannot be read any more: {error.strerror}; put it back as it was, and resume "
                    "with --ckpt_path last"
                )
            )
        if self.gate is not None:
            self.gate.finish(reserved, reading.size)
        return reading

    def _read(self, indices: Sequence[int]) -> Reading[Batch]:
        samples: list[Sample] = []
        dropped: list[BadSample] = []
        for index in indices:
            try:
                samples.append(self._samples[index])
            except BadSampleError as fault:
                dropped.append(BadSample(fault.origin, fault.reason))
        batch = self._encoded(samples, dropped) if samples else None
        if batch is None:
            return Reading(dropped=tuple(dropped))
        dropped.extend(dropped_of(batch))
        return Reading(with_dropped(batch, dropped), tuple(dropped), size=size_of(batch))

    def _encoded(self, samples: list[Sample], dropped: list[BadSample]) -> Batch | None:
        try:
            return self._encode(samples)
        except BadSampleError as fault:
            if len(samples) == 1:
                dropped.append(BadSample(fault.origin, fault.reason))
                return None
        # One by one, to find all that are at fault at the cost of two more encodings, however many there are.
        good = []
        for sample in samples:
            try:
                self._encode([sample])
            except BadSampleError as fault:
                dropped.append(BadSample(fault.origin, fault.reason))
            else:
                good.append(sample)
        return self._encode(good) if good else None


def dropped_of(batch: TrainingBatch | EvaluationBatch) -> tuple[BadSample, ...]:
    """Lists the samples that were left out of a batch."""
    return batch.complete.dropped if isinstance(batch, EvaluationBatch) else batch.dropped


def with_dropped(batch: Batch, dropped: Sequence[BadSample]) -> Batch:
    """Returns the batch with another list of samples that were left out."""
    if isinstance(batch, EvaluationBatch):
        return replace(batch, complete=replace(batch.complete, dropped=tuple(dropped)))
    return replace(batch, dropped=tuple(dropped))


def size_of(batch: TrainingBatch | EvaluationBatch) -> int:
    """Counts the bytes of a batch: its tensors, and the media that its samples carry; what is shared counts once."""
    held: dict[int, Tensor | MediaRef] = {}
    for part in _parts(batch):
        tensors = [value for value in vars(part).values() if isinstance(value, Tensor)]
        if isinstance(part, PromptBatch):
            tensors += part.visual.values()
        held.update((id(tensor), tensor) for tensor in tensors)
        for sample in part.samples:
            frames = [ref for video in sample.videos for ref in (*video.frames, video.file) if ref is not None]
            held.update((id(ref), ref) for ref in (*sample.images, *frames))
    return sum(item.nbytes if isinstance(item, Tensor) else _bytes_of(item) for item in held.values())


def _parts(batch: TrainingBatch | EvaluationBatch) -> Iterator[PromptBatch | CompletionSet]:
    """Yields the batches of tokens that a batch consists of."""
    if isinstance(batch, EvaluationBatch):
        yield batch.complete
        yield batch.prompts
        if batch.pairs is not None:
            yield from _parts(batch.pairs)
        return
    yield batch
    if isinstance(batch, CompletionSet):
        yield batch.prompts


def _bytes_of(reference: MediaRef) -> int:
    if reference.pil is not None:
        width, height = reference.pil.size
        return int(width * height * len(reference.pil.getbands()))
    return len(reference.bytes or b"")
