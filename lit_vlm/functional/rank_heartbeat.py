"""Lets ranks know of each other whether they live, beside the collectives in which one waits for another for ever.

Each rank tells a store, which lies in the process of rank 0, a number that grows and what it is busy with. Rank 0
reads them all; the others read what rank 0 says. Whoever is silent for too long is given up, however long others wait:
a rank that is only slow goes on telling.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch.distributed
from torch.distributed import TCPStore

State = Literal["runs", "failed", "cut off", "ended", "finished"]
"""``ended``: its process is gone; ``failed``: it stopped by an error of its own; ``cut off``: a collective told it that
another is gone."""
VERDICT = "verdict"
EXIT_STATUS = 2
"""Of a process that must be ended from outside its main thread; that of an error on the command line."""


@dataclass(frozen=True)
class HeartbeatTimes:
    """How long ranks wait for each other, in seconds."""

    beat: float = 1.0
    """Between two signs of life."""
    silence: float = 30.0
    """Without a sign of life until a rank is given up."""
    silence_when_cut_off: float = 10.0
    """The same where another rank has noticed that somebody is gone."""
    grace: float = 5.0
    """For the main thread to end by itself, after it is known that a rank is gone."""


@dataclass
class _Heard:
    """What is known of a rank."""

    number: int = -1
    state: State = "runs"
    phase: str = "the start"
    message: str = ""
    since: float = 0.0
    """When the number changed last."""


class RankHeartbeat:
    """Tells of this rank, and finds out about the others, in two threads of its own.

    Where a rank is gone, ``verdict`` says which and what it was doing, on all ranks. A main thread that does not end
    by itself soon after, since it hangs in a collective, is ended with its process.

    Args:
        store: Shared by all ranks; it lives in rank 0.
        rank: Of this process.
        world_size: How many ranks there are.
        children: Processes that this one has started as further ranks, in the order of their ranks.
        first_child: Rank of the first of them.
        times: How long to wait.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        world_size: int,
        *,
        children: Sequence[subprocess.Popen[bytes]] = (),
        first_child: int = 1,
        times: HeartbeatTimes = HeartbeatTimes(),
    ) -> None:
        self.rank = rank
        self.times = times
        self.verdict: str | None = None
        """Which rank is gone, as soon as that is known."""
        self._store = store
        self._world_size = world_size
        self._children = dict(enumerate(children, first_child))
        self._phase, self._state, self._message = "the start", "runs", ""
        self._number = self._delivered = 0
        now = time.monotonic()
        self._heard = {other: _Heard(since=now) for other in range(world_size) if other != rank}
        self._answered = now
        self._ended: dict[str, str] = {}
        """Ranks started here that are gone, and how."""
        self._lost: str | None = None
        self._is_handled = False
        self._hurry = threading.Event()
        self._known = threading.Event()
        self._stop = threading.Event()
        self._exit: Callable[[int], object] = os._exit
        self._threads = [
            threading.Thread(target=target, name=f"rank-heartbeat-{name}", daemon=True)
            for name, target in (("talk", self._talk), ("judge", self._judge))
        ]

    def start(self) -> None:
        """Begins to tell and to listen."""
        for thread in self._threads:
            thread.start()

    def enter(self, phase: str) -> None:
        """Notes what this rank is busy with, for the others to name it by."""
        self._phase = phase
        self._hurry.set()

    def fail(self, message: str) -> None:
        """Tells the others that this rank ends by an error of its own, and waits until they can know."""
        self._state, self._message, self._is_handled = "failed", message, True
        self._wait_until_told()
        if self.rank == 0:
            self._settle(f"rank 0 stopped during {self._phase}: {message}")
            # The store ends with this process.
            time.sleep(min(3 * self.times.beat, self.times.grace))

    def ask(self) -> str | None:
        """Tells the others that this rank was cut off in a collective, and waits for who is gone.

        Returns:
            The verdict; None where all others are alive. From here on it is the caller's to end this process.
        """
        self._state, self._is_handled = "cut off", True
        self._known.wait(self.times.silence + 3 * self.times.beat)
        if self.rank == 0 and self.verdict is not None:
            time.sleep(min(3 * self.times.beat, self.times.grace))
        return self.verdict

    def finish(self, seconds: float = float("inf")) -> None:
        """Tells the others that this rank is done; rank 0 waits for all, since the store ends with it.

        Args:
            seconds: Longest wait.
        """
        self._state = "finished"
        self._wait_until_told()
        end = time.monotonic() + seconds
        while self.rank == 0 and self.verdict is None and any(o.state == "runs" for o in self._heard.values()):
            if time.monotonic() > end:
                break
            time.sleep(min(self.times.beat, 0.05))
        self._stop.set()
        self._hurry.set()
        for thread in self._threads:
            thread.join(self.times.grace)

    def _wait_until_told(self) -> None:
        # An exchange that is under way may carry what was said before.
        wanted, end = self._number + 1, time.monotonic() + 3 * self.times.beat
        self._hurry.set()
        while self._delivered < wanted and time.monotonic() < end:
            time.sleep(0.01)

    def _talk(self) -> None:
        while not self._stop.is_set():
            try:
                self._exchange()
                self._lost = None
            except Exception as error:  # the store's errors have no class in common
                self._lost = self._lost or f"{type(error).__name__}"
            # What changes is told soon, though not at every turn of a fast run.
            self._stop.wait(self.times.beat / 5)
            self._hurry.wait(self.times.beat)
            self._hurry.clear()

    def _exchange(self) -> None:
        self._number += 1
        record: dict[str, Any] = {
            "number": self._number,
            "state": self._state,
            "phase": self._phase,
            "message": self._message,
        }
        record["ended"] = self._ended
        self._store.set(f"rank {self.rank}", json.dumps(record))
        if self.rank == 0 and self.verdict is not None:
            self._store.set(VERDICT, self.verdict)
        elif self.rank and self._store.check([VERDICT]):
            self._settle(self._store.get(VERDICT).decode())
        for other in self._heard if self.rank == 0 else (0,):
            if self._store.check([f"rank {other}"]):
                self._hear(other, json.loads(self._store.get(f"rank {other}")))
        self._answered = time.monotonic()
        self._delivered = self._number

    def _hear(self, other: int, record: dict[str, Any]) -> None:
        heard = self._heard[other]
        if record["number"] != heard.number:
            heard.since, heard.number = time.monotonic(), record["number"]
            if heard.state != "ended":
                heard.phase, heard.message, heard.state = record["phase"], record["message"], record["state"]
        for number, how in record["ended"].items():
            gone = self._heard.get(int(number))
            if self.rank == 0 and gone is not None and gone.state in ("runs", "cut off"):
                gone.state, gone.message = "ended", how

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self.times.beat):
            now = time.monotonic()
            if now - last > self.times.silence / 2:
                # This process itself was held up, such as by a debugger; what it missed says nothing of the others.
                for heard in self._heard.values():
                    heard.since = now
                self._answered = now
            last = now
            self._look_after_children()
            found = self.verdict or (self._judged_by_first(now) if self.rank == 0 else self._judged_by_other(now))
            if found is not None:
                self._settle(found)
                self._end()
                return

    def _look_after_children(self) -> None:
        """Notes which ranks ended that this process has started; what they told last goes before."""
        for number, child in self._children.items():
            status, heard = child.poll(), self._heard[number]
            if status and heard.state in ("runs", "cut off"):
                heard.state, heard.message = "ended", ended_by(status)
                self._ended[str(number)] = heard.message

    def _judged_by_first(self, now: float) -> str | None:
        cut_off = self._state == "cut off" or any(heard.state == "cut off" for heard in self._heard.values())
        silence = self.times.silence_when_cut_off if cut_off else self.times.silence
        for other, heard in self._heard.items():
            if heard.state == "ended":
                return f"rank {other} died, last heard of in {heard.phase}: {heard.message}"
            if heard.state == "failed":
                return f"rank {other} stopped during {heard.phase}: {heard.message}"
            if heard.state != "finished" and now - heard.since > silence:
                return silent(other, silence, heard.phase)
        return None

    def _judged_by_other(self, now: float) -> str | None:
        first = self._heard[0]
        if first.state == "finished" or (self._state == "finished" and self._lost):
            return None
        quiet = now - self._answered
        if self._lost is not None and quiet > 2 * self.times.beat:
            return f"rank 0 died, last heard of in {first.phase}: it can be reached no more"
        if quiet > self.times.silence or now - first.since > self.times.silence:
            return silent(0, self.times.silence, first.phase)
        return None

    def _settle(self, verdict: str) -> None:
        if self.verdict is None:
            self.verdict = verdict
        self._known.set()
        self._hurry.set()

    def _end(self) -> None:
        """Waits for the main thread to end by the verdict, and ends the process where it does not."""
        # Rank 0 goes last: what it knows, the others read from it.
        time.sleep(self.times.grace + (4 * self.times.beat if self.rank == 0 else 0))
        if self._is_handled:
            # The main thread is on its way out; it must not be held up there by what is left of collectives.
            while threading.main_thread().is_alive():
                time.sleep(self.times.beat)
            time.sleep(self.times.grace)
        else:
            print(f"lit-vlm: error: {self.verdict}", file=sys.stderr, flush=True)
        for child in self._children.values():
            if child.poll() is None:
                child.kill()
        self._exit(EXIT_STATUS)


def silent(rank: int, seconds: float, phase: str) -> str:
    """Says that a rank has not been heard of."""
    return f"rank {rank} has given no sign of life for {seconds:.0f} s; it was last heard of in {phase}"


def ended_by(status: int) -> str:
    """Says how a process ended.

    Example:
        >>> ended_by(-9)
        'its process was killed by signal 9'
    """
    return f"its process was killed by signal {-status}" if status < 0 else f"its process ended with status {status}"


def is_broken_collective(error: BaseException) -> bool:
    """Tells whether an error says that ranks have lost each other, rather than what has gone wrong in this one."""
    if isinstance(error, torch.distributed.DistError):
        return True
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def shared_store(rank: int, host: str, share: Callable[[int], int], seconds: float) -> TCPStore:
    """Opens a store in rank 0 that all ranks reach.

    Args:
        rank: Of this process.
        host: Address of rank 0.
        share: Hands rank 0's number to all ranks, which all call it.
        seconds: Longest wait for an answer.
    """
    wait = timedelta(seconds=seconds)
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=wait)
        share(store.port)
        return store
    return TCPStore(host, share(0), is_master=False, wait_for_workers=False, timeout=wait)
