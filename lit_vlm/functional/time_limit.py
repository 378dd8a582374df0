"""Ends Python code of others that never returns, within this process."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class TimeLimitError(BaseException):
    """Says that a time limit has passed; no ``Exception``, so that nobody takes it for an error of the code itself."""


@contextmanager
def time_limit(what: str, warning: float, limit: float) -> Iterator[None]:
    """Warns that something takes long, and then ends it.

    It can be ended in the main thread only, and where it waits or runs Python; code in C is ended when it comes back.

    Args:
        what: What takes long, for the warning.
        warning: Seconds until the warning, which is given again after each such time.
        limit: Seconds until the end.

    Raises:
        TimeLimitError: The limit has passed.
    """
    done = threading.Event()

    def warn() -> None:
        seconds = warning
        while not done.wait(warning):
            logger.warning("%s has been running for %.0f s", what, seconds)
            seconds += warning

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError(f"{what} took longer than {limit:g} s")

    watcher = threading.Thread(target=warn, name="time-limit", daemon=True)
    watcher.start()
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, end) if is_main else None
    try:
        if is_main:
            signal.setitimer(signal.ITIMER_REAL, limit)
        yield
    finally:
        if is_main:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
        done.set()
