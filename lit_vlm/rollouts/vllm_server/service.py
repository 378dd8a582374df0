"""The server's side of the protocol: HTTP with JSON and safetensors bytes. Needs the standard library only.

Weights come as safetensors, or through a process group that the trainer and all workers form; HTTP then tells what
comes.

| Request | Body | Answer |
| --- | --- | --- |
| ``GET /state`` | none | ``protocol``, ``weights``, ``group`` (name, or null) and what ``Backend.state`` tells |
| ``POST /generate`` | JSON, see ``Backend.generate`` | JSON |
| ``POST /weights/begin`` | none | ``{}``; what is being sampled is given up |
| ``POST /weights/bucket`` | safetensors, weights by the names that a checkpoint has | ``{}`` |
| ``POST /weights/join`` | JSON: the ``weight_group.Place`` of the first worker | ``{}``; all workers are in the group |
| ``POST /weights/receive`` | JSON: ``number`` and ``weights``, see ``Backend.receive_bucket`` | ``{}`` |
| ``POST /weights/finish?version=N`` | none | ``{}``; from here on the weights bear that number |
| ``POST /weights/adapter?version=N`` | safetensors, metadata ``adapter_config`` (JSON) | ``{}``; likewise |

What is refused is answered with ``{"error": sentence}``: status 400 for a request at fault, 401 for a wrong token, 409
where the weights are other than those that the request names, 413 for a body that is too long, 500 for a fault here,
503 where the group broke, of which this server need not be the reason.
"""

from __future__ import annotations

import hmac
import json
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

PROTOCOL = 2
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
CHUNK = 1 << 20
IDLE_SECONDS = 120.0
"""Longest silence of a client in the middle of its request."""


class RefusedError(Exception):
    """Says why a request is refused.

    Args:
        status: Of the answer.
        message: A sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Backend(Protocol):
    """What samples. Methods are called from many threads; weights change in one, while nothing is sampled."""

    def state(self) -> dict[str, Any]:
        """Describes it: ``model``, ``dtype``, ``max_tokens``, ``max_lora_rank``, ``vllm``, ``workers``, ``device``."""

    def generate(self, request: dict[str, Any], given_up: threading.Event) -> dict[str, Any]:
        """Continues a prompt.

        Args:
            request: ``token_ids``, of which one placeholder stands for each image; ``images``, PNG in base64;
                ``processor``, options of the image processor; ``sampling``; ``seeds``, one a completion.
            given_up: Set where nobody waits for the answer any more.

        Returns:
            ``token_ids`` of the prompt as the model read it; ``completions``, with ``token_ids``, ``log_probs`` and
            ``finish`` (``stop`` or ``length``) each.
        """

    def begin_weights(self) -> None:
        """Prepares for buckets of weights."""

    def load_bucket(self, path: Path) -> None:
        """Takes the weights of a safetensors file."""

    def join_group(self, place: dict[str, Any]) -> str | None:
        """Has the workers come to the trainer's group.

        Args:
            place: Of the first; the others follow.

        Returns:
            Why the group did not come about; None where it did.
        """

    def receive_bucket(self, number: int, described: list[Any]) -> str | None:
        """Takes weights from the group, and loads them unless they were loaded before.

        Args:
            number: Of the bucket, from 1.
            described: The weights in it by name, type and shape.

        Returns:
            Why they did not come; None where they did.
        """

    def finish_weights(self) -> None:
        """Makes the weights whole, and forgets what was computed with earlier ones."""

    def load_adapter(self, path: Path) -> None:
        """Puts an adapter in place of an earlier one, and forgets what was computed with that."""


class Service:
    """Answers requests, and keeps sampling and changes of weights apart.

    Args:
        backend: What samples.
        token: Shared secret; None asks for none.
        folder: Where bodies of weights are put, for as long as they are read.
        largest_json: Longest JSON body, in bytes.
        largest_weights: Longest body of weights, in bytes.
    """

    def __init__(
        self,
        backend: Backend,
        token: str | None = None,
        folder: Path | None = None,
        largest_json: int = 1 << 29,
        largest_weights: int = 1 << 34,
    ) -> None:
        self._backend = backend
        self._token = token
        self._folder = folder or Path(tempfile.gettempdir())
        self.largest = {"json": largest_json, "weights": largest_weights}
        self._changes = threading.Lock()
        self._idle = threading.Condition()
        self._sampling: set[threading.Event] = set()
        self._version: int | None = None
        self._is_loading = False
        self._group: str | None = None

    def check_token(self, given: str | None) -> None:
        """Refuses requests without the secret."""
        if self._token is not None and not hmac.compare_digest(
            f"Bearer {self._token}".encode(), (given or "").encode()
        ):
            raise RefusedError(401, "the token is missing or another one; both sides read it from LIT_VLM_VLLM_TOKEN")

    def state(self) -> dict[str, Any]:
        """Describes the server."""
        return {"protocol": PROTOCOL, "weights": self._version, "group": self._group, **self._backend.state()}

    def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Continues a prompt with the weights that the request names."""
        given_up = threading.Event()
        with self._idle:
            if request.get("version") != self._version or self._version is None:
                raise RefusedError(409, "the weights here are not those of this round; the server is new or shared")
            self._sampling.add(given_up)
        try:
            answer = self._backend.generate(request, given_up)
        finally:
            with self._idle:
                self._sampling.discard(given_up)
                self._idle.notify_all()
        if given_up.is_set():
            raise RefusedError(409, "the weights changed before the completions were there")
        return answer

    def begin_weights(self) -> None:
        """Gives up what is being sampled, and takes buckets from here on."""
        with self._changing():
            # A change that broke off half-way is begun anew.
            self._backend.begin_weights()
            self._is_loading = True

    def load_bucket(self, body: Path) -> None:
        """Takes some weights."""
        with self._changes:
            if not self._is_loading:
                raise RefusedError(409, "weights come after weights/begin")
            self._backend.load_bucket(body)

    def join_group(self, place: dict[str, Any]) -> None:
        """Comes to a group, through which weights come from then on."""
        with self._changes:
            self._group = None
            self._check_group(self._backend.join_group(place))
            self._group = str(place["name"])

    def receive_bucket(self, bucket: dict[str, Any]) -> None:
        """Takes some weights from the group."""
        number, described = bucket.get("number"), bucket.get("weights")
        if not isinstance(number, int) or not isinstance(described, list):
            raise RefusedError(400, "weights/receive needs a number and a list of weights")
        with self._changes:
            if not self._is_loading:
                raise RefusedError(409, "weights come after weights/begin")
            self._check_group(self._backend.receive_bucket(number, described))

    def finish_weights(self, version: int) -> None:
        """Names the weights that came in buckets."""
        with self._changes:
            if not self._is_loading:
                raise RefusedError(409, "weights/finish comes after weights/begin")
            self._is_loading = False
            self._backend.finish_weights()
            self._version = version

    def load_adapter(self, body: Path, version: int) -> None:
        """Takes an adapter, and names the weights."""
        with self._changing():
            self._backend.load_adapter(body)
            self._version = version

    @contextmanager
    def received(self, read: Callable[[int], bytes], length: int) -> Iterator[Path]:
        """Puts a body into a file of its own, which is gone afterwards."""
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".safetensors") as file:
            while length:
                chunk = read(min(CHUNK, length))
                if not chunk:
                    raise RefusedError(400, "the body is shorter than its Content-Length")
                file.write(chunk)
                length -= len(chunk)
            file.flush()
            yield Path(file.name)

    def _check_group(self, fault: str | None) -> None:
        if fault is not None:
            self._group = None
            raise RefusedError(503, fault)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._changes:
            with self._idle:
                self._version = None
                self._is_loading = False
                for given_up in self._sampling:
                    given_up.set()
                if not self._idle.wait_for(lambda: not self._sampling, timeout=IDLE_SECONDS):
                    raise RefusedError(500, f"what is being sampled did not stop within {IDLE_SECONDS:g} s")
            yield


class Handler(BaseHTTPRequestHandler):
    """Reads a request, and writes the answer of the service."""

    service: Service
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answers ``/state``."""
        self._answer({"/state": lambda query: self.service.state()})

    def do_POST(self) -> None:
        """Answers everything else."""
        self._answer(
            {
                "/generate": lambda query: self.service.generate(self._json()),
                "/weights/begin": lambda query: self.service.begin_weights(),
                "/weights/bucket": lambda query: self._with_weights(self.service.load_bucket),
                "/weights/join": lambda query: self.service.join_group(self._json()),
                "/weights/receive": lambda query: self.service.receive_bucket(self._json()),
                "/weights/finish": lambda query: self.service.finish_weights(_version(query)),
                "/weights/adapter": lambda query: self._with_weights(
                    lambda body: self.service.load_adapter(body, _version(query))
                ),
            }
        )

    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002 - the base class's name
        """Keeps quiet: a line for each prompt would bury what matters."""

    def _answer(self, known: dict[str, Callable[[dict[str, list[str]]], Any]]) -> None:
        address = urlsplit(self.path)
        try:
            self.service.check_token(self.headers.get("Authorization"))
            if address.path not in known:
                raise RefusedError(404, f"there is no {address.path}; there is {', '.join(known)}")
            status, content = 200, known[address.path](parse_qs(address.query)) or {}
        except RefusedError as fault:
            status, content = fault.status, {"error": str(fault)}
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            return
        except Exception as fault:  # the client gets every fault, the log its traceback; the server goes on
            traceback.print_exc()
            status, content = 500, {"error": f"{type(fault).__name__}: {fault}"}
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _length(self, kind: str) -> int:
        told = self.headers.get("Content-Length", "")
        if not told.isdigit():
            raise RefusedError(400, "the request tells no Content-Length")
        if int(told) > self.service.largest[kind]:
            raise RefusedError(413, f"the body has {told} bytes; at most {self.service.largest[kind]} are taken")
        return int(told)

    def _json(self) -> dict[str, Any]:
        content = self.rfile.read(self._length("json"))
        try:
            request = json.loads(content)
        except ValueError as fault:
            raise RefusedError(400, f"the body is no JSON: {fault}") from fault
        if not isinstance(request, dict):
            raise RefusedError(400, "the body is no JSON object")
        return request

    def _with_weights(self, use: Callable[[Path], None]) -> None:
        with self.service.received(self.rfile.read, self._length("weights")) as body:
            use(body)


def _version(query: dict[str, list[str]]) -> int:
    told = query.get("version", [""])[0]
    if not told.isdigit():
        raise RefusedError(400, "version is no whole number")
    return int(told)


class Server(ThreadingHTTPServer):
    """Listens; several prompts are answered at a time.

    Args:
        address: Host and port; port 0 takes a free one.
        service: Answers.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        super().__init__(address, type("BoundHandler", (Handler,), {"service": service}))
