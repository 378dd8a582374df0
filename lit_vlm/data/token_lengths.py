"""Counts the tokens of every sample once, in worker processes and shared by all ranks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch.distributed
from torch.utils.data import Dataset

from lit_vlm.data.worker_processes import start_reading
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, Sample, TokenCount

CHUNK = 64
"""Samples that a worker counts in one go."""
TOLD_EVERY = 5.0
"""Seconds between two lines of progress."""
Count = tuple[int, int | BadSample]


@dataclass(frozen=True)
class TokenLengths:
    """Tokens of the samples of a data set."""

    lengths: tuple[int | None, ...]
    """Tokens of each sample, images and videos included; None for a bad one."""
    bad_samples: tuple[BadSample, ...] = ()
    """Those that cannot be counted, or are too long."""

    def limited(self, most: int, samples: Sequence[Sample] | Dataset[Sample]) -> TokenLengths:
        """Refuses the samples that are longer than ``most`` tokens."""
        long = {index: length for index, length in enumerate(self.lengths) if length is not None and length > most}
        refused = [
            BadSample(
                samples[index].meta.origin or samples[index].id,
                f"it has {length} tokens, more than data.max_batch_tokens={most}; raise that or lower the pixel budget",
            )
            for index, length in long.items()
        ]
        kept = tuple(None if index in long else length for index, length in enumerate(self.lengths))
        return TokenLengths(kept, (*self.bad_samples, *refused))


def count_lengths(
    samples: Dataset[Sample],
    count: Callable[[Sample], TokenCount],
    *,
    num_workers: int = 0,
    tell: Callable[[str], None] | None = None,
) -> TokenLengths:
    """Counts the tokens of each sample.

    Under several ranks each counts a share and all get the whole, so every rank must call this.

    Args:
        samples: Samples by index.
        count: Counts the tokens of one, such as an encoder's ``count_tokens`` or ``count_prompt_tokens``.
        num_workers: Processes of this rank; 0 counts here.
        tell: Takes lines of progress; by default the first rank prints them to stderr.

    Raises:
        UserError: A mistake that concerns more than one sample, or a worker was killed.
    """
    size = len(samples)  # type: ignore[arg-type]
    rank, world_size = _ranks()
    if tell is None:
        tell = _print if rank == 0 else _keep_quiet
    mine = range(rank, size, world_size)
    chunks = [mine[start : start + CHUNK] for start in range(0, len(mine), CHUNK)]
    _, answers = start_reading(lambda: _Counts(samples, count), chunks, num_workers=num_workers, seed=0)
    start = time.perf_counter()
    fault: UserError | None = None
    counts: list[Count] = []
    for answer in _told(answers, len(mine), tell):
        if isinstance(answer, UserError):
            fault = answer
            break
        counts.extend(answer)
    lengths: list[int | None] = [None] * size
    bad: dict[int, BadSample] = {}
    for other_fault, other_counts in _from_all_ranks(fault, counts, world_size):
        if other_fault is not None:
            raise other_fault
        for index, found in other_counts:
            if isinstance(found, BadSample):
                bad[index] = found
            else:
                lengths[index] = found
    tell(f"counted the tokens of {size:,} samples in {time.perf_counter() - start:.0f} s")
    return TokenLengths(tuple(lengths), tuple(bad[index] for index in sorted(bad)))


class _Counts(Dataset["list[Count] | UserError"]):
    """A data set of chunks: asked for a range of indices, it counts the tokens of the samples."""

    def __init__(self, samples: Dataset[Sample], count: Callable[[Sample], TokenCount]) -> None:
        self._samples = samples
        self._count = count

    def __getitem__(self, chunk: Iterable[int]) -> list[Count] | UserError:
        counts: list[Count] = []
        for index in chunk:
            try:
                counts.append((index, self._count(self._samples[index]).total))
            except BadSampleError as bad:
                counts.append((index, BadSample(bad.origin, bad.reason)))
            except UserError as fault:
                # Returned, since an exception would leave a worker process as a text.
                return fault
        return counts


def _told(
    answers: Iterable[list[Count] | UserError], total: int, tell: Callable[[str], None]
) -> Iterator[list[Count] | UserError]:
    done, told_at = 0, time.perf_counter()
    for answer in answers:
        yield answer
        done = min(done + CHUNK, total)
        if time.perf_counter() - told_at > TOLD_EVERY:
            told_at = time.perf_counter()
            tell(f"counting tokens: {done:,} of {total:,} samples")


def _ranks() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _from_all_ranks(
    fault: UserError | None, counts: list[Count], world_size: int
) -> list[tuple[UserError | None, list[Count]]]:
    gathered: list[tuple[UserError | None, list[Count]]] = [(fault, counts)] * world_size
    if world_size > 1:
        torch.distributed.all_gather_object(gathered, (fault, counts))
    return gathered


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keep_quiet(line: str) -> None:
    """Says nothing: another rank does."""
