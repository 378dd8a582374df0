"""Starts the worker processes of a ``DataLoader``, and tells of those that do not start or die."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from ctypes import c_bool
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from lit_vlm.functional.dead_workers import lost_answer_error
from lit_vlm.interfaces.errors import UserError

Data = TypeVar("Data", bound=Dataset[Any])
START_SECONDS = 20.0
"""How long a worker may take to start; one that is forked does so in milliseconds."""
STARTS = 5
"""Attempts to start all workers."""
READ_AHEAD = 2
"""Requests that each worker is given beyond the answer that is taken."""


def start_reading(
    build: Callable[[], Data], requests: Iterable[Any], *, num_workers: int, seed: int, pin_memory: bool = False
) -> tuple[Data, Iterator[Any]]:
    """Starts to read what is requested, in order.

    A process that is forked while another thread enters Python may hang before its first line (Python 3.11, after
    collective operations between ranks), so workers that do not report are killed and all are started anew.

    Args:
        build: Makes the data set, anew for each attempt; a request is what it takes for an index.
        requests: What to ask it for, drawn when it is asked; each attempt iterates anew.
        num_workers: Processes; 0 reads here.
        seed: The workers' random streams start from it; the global one stays untouched.
        pin_memory: Pins tensors for a fast copy to the GPU.

    Returns:
        The data set, and an iterator over its answers. The iterator raises ``UserError`` where a worker is killed.

    Raises:
        UserError: The workers do not start.
    """
    for _ in range(STARTS):
        data = build()
        has_started = RawArray(c_bool, num_workers)
        loader: DataLoader[Any] = DataLoader(
            data,
            sampler=requests,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=READ_AHEAD if num_workers else None,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(seed),
            worker_init_fn=partial(report_start, has_started) if num_workers else None,
        )
        source = iter(loader)
        if _wait_for(has_started):
            return data, _told_of_dead_workers(source)
        _kill(source)
    raise UserError(
        f"the processes that read data did not start within {START_SECONDS:.0f} s, {STARTS} times; give "
        "data.num_workers 0 to read in the training process"
    )


def report_start(has_started: Any, worker: int) -> None:
    """Says that a worker runs; called in it."""
    has_started[worker] = True


def _wait_for(has_started: Any) -> bool:
    end = time.monotonic() + START_SECONDS
    while not all(has_started):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def _kill(source: Any) -> None:
    """Kills all workers of a ``DataLoader``; those that hang in a fork take no gentler signal."""
    for worker in source._workers:
        try:
            worker.kill()
            worker.join()
        except RuntimeError:
            worker.join()  # torch raises from its signal handler where a worker is killed


def _told_of_dead_workers(source: Iterator[Any]) -> Iterator[Any]:
    # The source is named here, so that it outlives the loop: its end waits for the workers.
    while True:
        try:
            item = next(source)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as fault:
            mistake = lost_answer_error(fault, getattr(source, "_workers", ()))
            if mistake is None:
                raise
            raise mistake from fault
        yield item


def _as_it_is(answer: Any) -> Any:
    return answer
