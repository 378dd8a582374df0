"""Lets worker processes start a batch only while there is room for it in host memory."""

from __future__ import annotations

import multiprocessing
import time
from ctypes import c_longlong
from multiprocessing.sharedctypes import RawValue

POLL_SECONDS = 0.005


class PrefetchGate:
    """Counts the bytes of batches that are being made or wait to be taken, over all workers.

    Batches are let in by their number, one after the other, so that the one needed next is never kept out by later
    ones. Until it is finished a batch is counted as large as the largest so far; alone it is always let in. So the
    bytes stay within the limit, or within one batch where that is larger, except where a batch turns out larger than
    any before it. The workers wait by asking again and again: nobody needs to wake them, so none can be left asleep.

    Args:
        limit: Bytes.
        largest: Bytes of the largest batch known from earlier.
    """

    def __init__(self, limit: int, largest: int = 0) -> None:
        self.limit = limit
        self._lock = multiprocessing.Lock()
        self._largest = RawValue(c_longlong, largest)
        self._bytes = RawValue(c_longlong, 0)
        self._batches = RawValue(c_longlong, 0)
        self._next = RawValue(c_longlong, 0)
        self._is_closed = RawValue(c_longlong, 0)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the batches inside, finished or not."""
        return int(self._bytes.value)

    @property
    def largest(self) -> int:
        """Bytes of the largest batch so far."""
        return int(self._largest.value)

    def enter(self, number: int) -> int:
        """Waits for room; a worker calls this before it makes batch ``number``.

        Returns:
            Bytes set aside for it, which ``finish`` takes back.
        """
        while True:
            with self._lock:
                if self._is_closed.value:
                    return 0
                if self._next.value == number and self._has_room():
                    reserved = self.largest
                    self._next.value += 1
                    self._batches.value += 1
                    self._bytes.value += reserved
                    return reserved
            if _is_orphan():
                return 0
            time.sleep(POLL_SECONDS)

    def finish(self, reserved: int, size: int) -> None:
        """Books the true size of a batch; a worker calls this when it has made it."""
        with self._lock:
            self._bytes.value += size - reserved
            self._largest.value = max(self._largest.value, size)

    def leave(self, size: int) -> None:
        """Takes a batch out; the training process calls this when it hands it on."""
        with self._lock:
            self._bytes.value -= size
            self._batches.value -= 1

    def close(self) -> None:
        """Lets everyone in, since what they make is not wanted any more and they should end.

        It does not wait for the lock, which a worker that was killed may hold for ever.
        """
        self._is_closed.value = 1

    def _has_room(self) -> bool:
        if not self._batches.value:
            return True
        return self._largest.value > 0 and self._bytes.value + self._largest.value <= self.limit


def _is_orphan() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
