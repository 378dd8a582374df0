"""What a ``DataLoader`` raises where one of its worker processes dies, in words for the user."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from lit_vlm.interfaces.errors import UserError

PATIENCE_SECONDS = 2.0
"""Longest wait, over all workers, to hear whether one of them has ended."""


def dead_worker_error(error: BaseException) -> UserError | None:
    """Words the death of a worker process; None for any other error.

    Torch raises it where the data are read, or from a signal in the midst of whatever the main thread is doing.
    """
    if not isinstance(error, RuntimeError) or "DataLoader worker (pid" not in str(error):
        return None
    # The cause says which signal it was, or nothing where the process was found missing.
    return _told((str(error.__cause__ or "").strip() or str(error).strip()).splitlines()[0])


def lost_answer_error(error: BaseException, workers: Sequence[BaseProcess]) -> UserError | None:
    """Words an answer that broke off, where that is since a worker process died; None where all of them live.

    A worker keeps what it has answered until it is fetched, in the midst of which it may die.

    Args:
        error: Raised while an answer was fetched.
        workers: The processes.
    """
    if isinstance(error, RuntimeError):
        return dead_worker_error(error)
    try:
        for worker in workers:
            # The system may break its connections before it says that the process has ended.
            worker.join(PATIENCE_SECONDS / len(workers))
            if worker.exitcode:
                reason = signal.strsignal(-worker.exitcode) if worker.exitcode < 0 else f"status {worker.exitcode}"
                return _told(f"DataLoader worker (pid {worker.pid}) ended: {reason}")
    except RuntimeError as told:  # torch's signal handler has noticed meanwhile
        return dead_worker_error(told)
    return None


def _told(reason: str) -> UserError:
    return UserError(
        f"a process that reads data died ({reason.rstrip('.')}), most often for want of memory; lower "
        "data.num_workers, data.prefetch_bytes or the size of batches"
    )
