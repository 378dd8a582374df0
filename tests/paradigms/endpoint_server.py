"""A real HTTP server on this machine that speaks the chat-completions protocol, well or badly, as a test scripts it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def question(self) -> str:
        """Text of the last turn."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@dataclass
class Reply:
    """What is sent back."""

    body: bytes | str | dict[str, Any] = ""
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: threading.Event | None = None
    """The answer waits for it."""
    drop: bool = False
    """The connection is cut without an answer."""

    @property
    def encoded(self) -> bytes:
        """The bytes of the body."""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


def said(text: str, tokens: int = 5, prompt_tokens: int = 7, **choice: Any) -> Reply:
    """An answer as the protocol wants it."""
    message = {"role": "assistant", "content": text}
    return Reply(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "teacher-1",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens},
        }
    )


@dataclass
class Server:
    """Where it listens, and what it was asked."""

    url: str
    asked: list[Asked]


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[Server]:
    """Serves on a free port of 127.0.0.1 until the block ends."""
    asked: list[Asked] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = Asked(self.path, dict(self.headers), body)
            with lock:
                asked.append(request)
                reply = answer(request)
            if reply.hang is not None:
                reply.hang.wait(10)
            if reply.drop:
                self.close_connection = True
                return
            try:
                self.send_response(reply.code)
                for name, value in {"Content-Length": str(len(reply.encoded)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.encoded)
            except OSError:
                self.close_connection = True  # the client has given up

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    class QuietServer(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Says nothing of clients that left."""

    server = QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}/v1", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
