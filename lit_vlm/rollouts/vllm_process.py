"""Starts a server beside the trainer, in vLLM's own environment, and ends it with the run."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts.vllm_client import ServerLostError, VLLMClient

SCRIPT = Path(__file__).parent / "vllm_server" / "serve.py"
LOCAL_HOSTS = ("127.0.0.1", "localhost")
POLL_SECONDS = 0.5
END_SECONDS = 20.0
SHOWN_CHARACTERS = 2000
OF_THE_TRAINER = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_", "NODE_RANK", "PYTHON")
"""Beginnings of variables that tell a process its place among ranks, or where its own packages lie."""

logger = logging.getLogger(__name__)


class VLLMProcess:
    """A server that this process has started.

    Args:
        python: Interpreter of vLLM's environment.
        client: Where it is to listen, on this machine.
        model: Folder or hub id that it loads.
        arguments: Further arguments of ``serve.py``.

    Raises:
        UserError: The address is another machine's or taken, or there is no such interpreter.
    """

    def __init__(self, python: str, client: VLLMClient, model: str, arguments: Sequence[str]) -> None:
        if client.host not in LOCAL_HOSTS:
            raise UserError(
                f"model.engine.start_server starts a server on this machine, but model.engine.servers is "
                f"{client.address}; give http://127.0.0.1:PORT, or start the server there yourself"
            )
        if _answers(client):
            raise UserError(
                f"a server answers at {client.address} already; leave model.engine.start_server out to use it, or give "
                "model.engine.servers another port"
            )
        self._client = client
        log, name = tempfile.mkstemp(prefix="vllm-server-", suffix=".log")
        self._log = Path(name)
        command = [
            python, str(SCRIPT), "--model", model, "--port", str(client.port), "--parent", str(os.getpid()), *arguments
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=server_environment(os.environ),
                # An interrupt at the keyboard is the trainer's, which ends the server when it has saved what it has.
                start_new_session=True,
            )
        except OSError as fault:
            raise UserError(
                f"model.engine.python: {python!r} cannot be run ({fault.strerror}); give the interpreter of an "
                "environment that has vLLM, such as VLLM/bin/python"
            ) from fault
        finally:
            os.close(log)
        atexit.register(self.end)

    @property
    def pid(self) -> int:
        """Number of the process, which leads a group of those that it starts."""
        return self._process.pid

    def wait(self, seconds: float) -> None:
        """Waits until the server answers.

        Raises:
            UserError: It ended, or does not answer in time.
        """
        logger.warning("starting a vLLM server at %s, which takes a minute; it writes to %s", self._client.address,
                       self._log)  # fmt: skip
        deadline = time.monotonic() + seconds
        while not _answers(self._client):
            if self._process.poll() is not None:
                raise UserError(f"the vLLM server ended with code {self._process.returncode}; {self._last_words()}")
            if time.monotonic() > deadline:
                self.end()
                raise UserError(
                    f"the vLLM server did not answer within {seconds:g} s (model.engine.start_seconds); "
                    f"{self._last_words()}"
                )
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """Ends the server and what it has started."""
        atexit.unregister(self.end)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _last_words(self) -> str:
        told = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return f"its last words, of {self._log}: {told[-SHOWN_CHARACTERS:] or 'none'}"


def server_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Leaves out of an environment what tells the trainer its place among ranks, and its packages."""
    return {name: value for name, value in own.items() if not name.startswith(OF_THE_TRAINER)}


def _answers(client: VLLMClient) -> bool:
    try:
        client.state()
    except ServerLostError:
        return False
    return True
