"""A process that answers questions and can be killed, whatever it is busy with.

For code that may loop for ever, also inside C, where no exception reaches it. The process is a fresh Python (nothing is
forked) that talks over a socket, one line a message. Any thread may own one, also in forked and daemonic processes such
as those of a DataLoader. POSIX only.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_alive: "set[WorkerProcess]" = set()


class WorkerProcess:
    """Starts a script as a process of its own, which reads lines from standard input and writes lines back.

    The script is expected to end with its input, and to set an alarm for the time that a question may take, so that it
    also ends where this process dies by force. At this process' regular end it is killed.

    Args:
        script: The file to run; its folder is not on the import path.
        arguments: What follows on its command line.
        shows_errors: Whether its standard error is this process' own; else it is thrown away.
    """

    def __init__(self, script: Path, arguments: Sequence[str] = (), *, shows_errors: bool = False) -> None:
        self._received = bytearray()
        self._socket, theirs = socket.socketpair()
        with theirs:
            # Not multiprocessing: daemonic processes may start a subprocess, but no child of that kind. A session of
            # its own keeps Ctrl-C in a terminal from reaching it, and lets its children be killed along.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", str(script), *arguments],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=None if shows_errors else subprocess.DEVNULL,
                start_new_session=True,
            )
        _alive.add(self)

    @property
    def process_id(self) -> int:
        """Number of the process."""
        return self._process.pid

    def write(self, line: bytes, seconds: float) -> None:
        """Sends one line; TimeoutError at the deadline, ConnectionError where the process ended."""
        self._socket.settimeout(seconds)
        self._socket.sendall(line + b"\n")

    def read(self, seconds: float) -> bytes:
        """Waits for one line; TimeoutError at the deadline, EOFError or ConnectionError where the process ended."""
        deadline = time.monotonic() + seconds
        while (end := self._received.find(b"\n")) < 0:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            received = self._socket.recv(1 << 16)
            if not received:
                raise EOFError
            self._received += received
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def stop(self) -> None:
        """Kills the process and its children, and waits for its end; may be called again."""
        if self._process.returncode is None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._socket.close()
        _alive.discard(self)

    def forget(self) -> None:
        """Lets go of a process that belongs to the parent of a forked child."""
        self._socket.close()
        # Not our child, so nothing to wait for; without a code Popen warns of a process still running.
        self._process.returncode = 0
        _alive.discard(self)


def _stop_all() -> None:
    for process in list(_alive):
        process.stop()


def _forget_all() -> None:
    for process in list(_alive):
        process.forget()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget_all)
