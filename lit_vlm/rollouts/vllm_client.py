"""Speaks with one server; see ``vllm_server/service.py`` for the protocol."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lit_vlm.interfaces.errors import UserError

PROTOCOL = 2
CONNECT_SECONDS = 10.0
CHUNK = 1 << 20
GROUP_BROKE = 503
DIFFERS = (401, 404, 409, 500)
"""Answers that another server may not give: its secret, its program or its weights may differ, or it is broken."""


class ServerLostError(Exception):
    """Says why a server is of no use for now, while another may be.

    Args:
        address: Of the server.
        reason: What happened.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.address = address


class NotInGroupError(ServerLostError):
    """Says why a process group broke that a server was in; the server may well be sound."""


class VLLMClient:
    """A server, at its address.

    Args:
        address: Such as ``http://127.0.0.1:8000``.
        token: Shared secret; None for none.

    Raises:
        UserError: It is no address.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme != "http" or not parts.hostname or port is None or parts.path.strip("/"):
            raise UserError(f"model.engine.servers: {address!r} is no address such as http://127.0.0.1:8000")
        self.address = f"http://{parts.netloc}"
        self.host, self.port = parts.hostname, port
        self._token = token

    def state(self, seconds: float = CONNECT_SECONDS) -> ServerState:
        """Asks what the server has.

        Raises:
            ServerLostError: It does not answer, or not in this protocol.
        """
        told = self._ask("GET", "/state", b"", seconds)
        if told.get("protocol") != PROTOCOL:
            raise ServerLostError(self.address, f"it speaks protocol {told.get('protocol')}, wanted is {PROTOCOL}")
        return ServerState(
            model=str(told["model"]),
            dtype=str(told["dtype"]),
            max_tokens=int(told["max_tokens"]),
            max_lora_rank=int(told["max_lora_rank"]),
            weights=told["weights"],
            vllm=str(told["vllm"]),
            workers=int(told["workers"]),
            device=str(told["device"]),
            group=told["group"],
        )

    def generate(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Has a prompt continued.

        Raises:
            ServerLostError: It does not answer in time, or has other weights.
            UserError: It refuses the request.
        """
        return self._ask("POST", "/generate", json.dumps(request).encode(), seconds)

    def begin_weights(self, seconds: float) -> None:
        """Announces weights."""
        self._ask("POST", "/weights/begin", b"", seconds)

    def send_bucket(self, bucket: bytes, seconds: float) -> None:
        """Hands over some weights."""
        self._ask("POST", "/weights/bucket", bucket, seconds)

    def join_group(self, place: dict[str, Any], seconds: float) -> None:
        """Has the server's workers come to a process group; see ``vllm_server/weight_group.py``.

        Raises:
            NotInGroupError: The group did not come about.
        """
        self._ask("POST", "/weights/join", json.dumps(place).encode(), seconds)

    def receive_bucket(self, number: int, described: list[Any], seconds: float) -> None:
        """Has the server take some weights from the group.

        Raises:
            NotInGroupError: They did not come.
        """
        bucket = {"number": number, "weights": described}
        self._ask("POST", "/weights/receive", json.dumps(bucket).encode(), seconds)

    def finish_weights(self, version: int, seconds: float) -> None:
        """Says that all weights are there, and their number."""
        self._ask("POST", f"/weights/finish?version={version}", b"", seconds)

    def send_adapter(self, adapter: bytes, version: int, seconds: float) -> None:
        """Hands over an adapter, and the weights' number."""
        self._ask("POST", f"/weights/adapter?version={version}", adapter, seconds)

    def _ask(self, method: str, path: str, body: bytes, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        headers = {"Content-Length": str(len(body))}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=min(CONNECT_SECONDS, seconds))
        try:
            connection.connect()
            connection.sock.settimeout(seconds)
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                content = _read(connection, response, deadline)
            told = json.loads(content)
        except TimeoutError as fault:
            raise ServerLostError(self.address, f"no answer within {seconds:g} s") from fault
        except (OSError, http.client.HTTPException, ValueError) as fault:
            raise ServerLostError(self.address, f"{type(fault).__name__}: {fault}") from fault
        finally:
            connection.close()
        if response.status == 200 and isinstance(told, dict):
            return told
        reason = str(told.get("error", content[:200])) if isinstance(told, dict) else str(content[:200])
        if response.status == GROUP_BROKE:
            raise NotInGroupError(self.address, reason)
        if response.status in DIFFERS:
            raise ServerLostError(self.address, reason)
        raise UserError(f"the vLLM server at {self.address} refuses: {reason}")


@dataclass(frozen=True)
class ServerState:
    """What a server has."""

    model: str
    """Folder or hub id that it loaded."""
    dtype: str
    """Type that it computes in, such as ``bfloat16``."""
    max_tokens: int
    """Longest prompt with its completion."""
    max_lora_rank: int
    """Largest rank of an adapter; 0 where it takes none."""
    weights: int | None
    """Number of its weights; None before any were sent."""
    vllm: str
    """Version of vLLM."""
    workers: int = 1
    """Processes that the model is cut up over."""
    device: str = "cpu"
    """Type of device that the model is on, such as ``cuda``."""
    group: str | None = None
    """Name of the process group that its workers are in."""


def _read(connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float) -> bytes:
    """Reads a body, however slowly it comes, up to the deadline."""
    content = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
        chunk = response.read1(CHUNK)
        if not chunk:
            if response.length:
                raise http.client.IncompleteRead(bytes(content), response.length)
            return bytes(content)
        content += chunk
