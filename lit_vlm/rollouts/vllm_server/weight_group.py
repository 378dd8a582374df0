"""A process group of a trainer and the workers of servers, beside the groups that they have. Needs torch only.

``torch.distributed.init_process_group`` makes the one group by default of a process, which both sides need for
themselves; what it is made of, a store and a backend, is put together here. The trainer's first rank opens the store,
is rank 0 and sends; nobody else sends. vLLM's own ``StatelessProcessGroup`` is not at hand where the trainer runs.

Everything is bounded in time: a process group cannot be interrupted, so that its calls run in threads that are left
behind where they do not return. A group that failed once is of no use any more, and must be made anew.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, PrefixStore, Store, TCPStore

REACH_SECONDS = 10.0
"""Longest wait for a connection to the store."""
POLL_SECONDS = 0.05
GO, OVER = "go", "over"
T = TypeVar("T")


class GroupBrokenError(Exception):
    """Says why a group came to nothing, or did not bring weights over."""


class UnreachableError(Exception):
    """Says that a worker does not reach the trainer."""


@dataclass(frozen=True)
class Place:
    """A process's place in a group, and where the group meets."""

    address: str
    """Of the trainer, as servers reach it."""
    port: int
    """Of the store."""
    name: str
    """Of the group, like no other's."""
    rank: int
    """0 for the trainer."""
    size: int
    """Processes of the group."""
    backend: str
    """``nccl`` between GPUs, ``gloo`` through main memory."""
    seconds: float
    """Longest wait for all to come, and for a broadcast."""


class WeightGroup:
    """A group that is ready: all its processes have sent and received once.

    Args:
        store: Where the group meets.
        place: Of this process.
        device: Of what is broadcast: a GPU for ``nccl``, the CPU for ``gloo``.
        given_up: Set where waiting for the others is of no use any more.

    Raises:
        GroupBrokenError: The others did not come in time.
    """

    def __init__(
        self, store: Store, place: Place, device: torch.device, given_up: threading.Event | None = None
    ) -> None:
        self.place = place
        self.device = device
        self._store = PrefixStore(f"{place.name}/{place.backend}", store)
        self._backend: Any = bounded(self._opened, place.seconds, given_up)
        self.broadcast(torch.zeros(1, dtype=torch.uint8, device=device), given_up)

    def broadcast(self, flat: Tensor, given_up: threading.Event | None = None) -> None:
        """Sends a tensor, where this is rank 0, else fills it with what was sent.

        Args:
            flat: Bytes, of the same shape in all processes, on the group's device.
            given_up: Set where waiting for the others is of no use any more.

        Raises:
            GroupBrokenError: A process is gone, or not all had it in time.
        """
        if self.device.type == "cuda":
            # The thread has streams of its own, which know nothing of what this one still computes.
            torch.cuda.synchronize(self.device)
        bounded(lambda: self._broadcast(flat), self.place.seconds, given_up)

    def close(self) -> None:
        """Lets go of the group; the others hear of it at their next broadcast, or at once."""
        threading.Thread(target=self._backend.abort, daemon=True).start()

    def _broadcast(self, flat: Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        with torch.cuda.device(self.device if self.device.type == "cuda" else -1):
            self._backend.broadcast([flat], options).wait()

    def _opened(self) -> Any:
        patience = timedelta(seconds=self.place.seconds)
        if self.place.backend == "nccl":
            from torch.distributed import ProcessGroupNCCL

            options = ProcessGroupNCCL.Options()
            options._timeout = patience
            # Else a watchdog ends the whole process where another is gone, and waiting would not be for the numbers.
            with _environment("TORCH_NCCL_BLOCKING_WAIT", "1"):
                return ProcessGroupNCCL(self._store, self.place.rank, self.place.size, options)
        from torch.distributed import ProcessGroupGloo

        settings = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        settings._timeout, settings._threads = patience, 1
        # The address by which this process and the trainer reach each other, whatever this machine calls itself.
        settings._devices = [ProcessGroupGloo.create_device(hostname=own_address(self.place))]
        return ProcessGroupGloo(self._store, self.place.rank, self.place.size, settings)


def open_store(address: str, port: int, seconds: float) -> TCPStore:
    """Opens the store of a group, for the trainer.

    Args:
        address: Where it listens, and nowhere else.
        port: 0 takes a free one, which the store tells.
        seconds: Longest wait for an answer.

    Raises:
        OSError: The address is not this machine's, or the port is taken.
    """
    listener = socket.create_server((address, port))
    return TCPStore(
        address,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=seconds),
        master_listen_fd=listener.detach(),
    )


def gather(store: Store, place: Place, device: torch.device, given_up: threading.Event) -> WeightGroup:
    """Waits until all have come, and makes the group, for the trainer.

    Args:
        store: It opened.
        place: Of rank 0.
        device: Of what is broadcast.
        given_up: Set where one will not come.

    Raises:
        GroupBrokenError: Not all came in time.
    """
    meeting = PrefixStore(place.name, store)
    awaited = [_key(rank) for rank in range(1, place.size)]
    deadline = time.monotonic() + place.seconds
    while not meeting.check(awaited):
        if given_up.wait(POLL_SECONDS) or time.monotonic() > deadline:
            # Those who came are waiting.
            meeting.set("start", OVER)
            raise GroupBrokenError("not all processes came to the group")
    meeting.set("start", GO)
    return WeightGroup(store, place, device, given_up)


def join(place: Place, device: torch.device) -> WeightGroup:
    """Comes to the group of a trainer, for a worker.

    Args:
        place: Of this process.
        device: Of what is broadcast.

    Raises:
        UnreachableError: The trainer's address cannot be reached.
        GroupBrokenError: The group did not come about.
    """
    try:
        own_address(place)
    except OSError as fault:
        raise UnreachableError(
            f"the worker does not reach the trainer at {place.address}, port {place.port} ({fault}); "
            "model.engine.broadcast_address must be one of the trainer's addresses that it does reach"
        ) from fault
    try:
        store = TCPStore(
            place.address, place.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=place.seconds)
        )
        meeting = PrefixStore(place.name, store)
        meeting.set(_key(place.rank), "here")
        start = meeting.get("start").decode()
    except RuntimeError as fault:
        raise GroupBrokenError(_first_line(fault)) from fault
    if start != GO:
        raise GroupBrokenError("another process did not come")
    return WeightGroup(store, place, device)


def own_address(place: Place) -> str:
    """Tells by which of its addresses this process reaches the trainer.

    Raises:
        OSError: By none.
    """
    with socket.create_connection((place.address, place.port), timeout=REACH_SECONDS) as connection:
        return str(connection.getsockname()[0])


def bounded(work: Callable[[], T], seconds: float, given_up: threading.Event | None = None) -> T:
    """Does work that cannot be interrupted, and waits for it no longer than told.

    Args:
        work: Goes on in a thread of its own, whether it is waited for or not.
        seconds: Longest wait.
        given_up: Ends the wait once it is set.

    Raises:
        GroupBrokenError: It failed, is not done in time, or is not waited for any more.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as fault:  # it is raised where the work is waited for
            done.set_exception(fault)

    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + seconds
    while not wait([done], POLL_SECONDS).done:
        if given_up is not None and given_up.is_set():
            raise GroupBrokenError("another process did not take part")
        if time.monotonic() > deadline:
            raise GroupBrokenError(f"not done within {seconds:g} s")
    try:
        return done.result()
    except (OSError, RuntimeError) as fault:
        raise GroupBrokenError(_first_line(fault)) from fault


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    earlier = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if earlier is None:
            del os.environ[name]
        else:
            os.environ[name] = earlier


def _key(rank: int) -> str:
    return f"here/{rank}"


def _first_line(fault: BaseException) -> str:
    return str(fault).partition("\n")[0]
