"""Works on pieces of a tensor side by side, each piece on one processor.

torch divides every single operation between processors, which for small pieces costs more in waiting than it saves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import torch

from lit_vlm.functional.task_vectors import PIECE

Result = TypeVar("Result")


class PieceThreads:
    """Threads in which torch uses one processor each; as many of them as torch uses processors elsewhere.

    Example:
        >>> with PieceThreads() as threads:
        ...     list(threads.over(5, lambda start, stop: (start, stop), step=2))
        [(0, 2), (2, 4), (4, 5)]
    """

    def __init__(self) -> None:
        count = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="pieces")
        started = threading.Barrier(count + 1)

        def begin() -> None:
            # A thread that has not asked yet takes the number set last when it first computes.
            torch.get_num_threads()
            torch.set_num_threads(1)
            started.wait()

        for _ in range(count):
            self._threads.submit(begin)
        started.wait()
        # The number set last is that of threads still to come, which are to be as they would have been.
        torch.set_num_threads(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def over(self, count: int, work: Callable[[int, int], Result], *, step: int = PIECE) -> Iterator[Result]:
        """Calls a function with the ends of each piece of ``count`` numbers; yields what it returns, in order."""
        return self._threads.map(lambda start: work(start, min(start + step, count)), range(0, count, step))
