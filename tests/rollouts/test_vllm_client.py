import socket
import threading
import time

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts import vllm_client
from lit_vlm.rollouts.vllm_client import ServerLostError, VLLMClient
from tests.rollouts.policy_server import Stub, serving


@pytest.mark.parametrize(
    "address", ["localhost:8000", "http://localhost", "https://a:1", "http://:1", "http://a:1/b", "http://a:b", ""]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UserError, match="is no address such as http"):
        VLLMClient(address)


def test_a_server_that_is_not_there_is_lost():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerLostError, match=f"http://127.0.0.1:{port}: ConnectionRefusedError"):
        VLLMClient(f"http://127.0.0.1:{port}").state()


def test_no_wait_is_longer_than_its_limit():
    stub = Stub(seconds=30)
    with serving(stub) as (address, _):
        client = VLLMClient(address)
        client.send_adapter(b"x", 1, 5)
        start = time.monotonic()
        with pytest.raises(ServerLostError, match=r"no answer within 0\.5 s"):
            client.generate({"version": 1}, 0.5)
        assert time.monotonic() - start < 5
        client.begin_weights(5)  # ends what the server still does


def speaking(reply, pause=0.0):
    """A listener that answers one connection with bytes, piece by piece."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(1 << 16)
            for piece in reply:
                try:
                    connection.sendall(piece)
                except OSError:
                    return
                time.sleep(pause)

    threading.Thread(target=answer, daemon=True).start()
    return VLLMClient(f"http://127.0.0.1:{listener.getsockname()[1]}")


def test_an_answer_that_trickles_ends_at_the_limit_too():
    client = speaking([b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b" "] * 100], pause=0.1)
    start = time.monotonic()
    with pytest.raises(ServerLostError):
        client.state(0.6)
    assert time.monotonic() - start < 4


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "BadStatusLine"),
        (b"", "RemoteDisconnected"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}", "IncompleteRead"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "JSONDecodeError"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"protocol": 99}', "speaks protocol 99"),
        (b'HTTP/1.0 500 No\r\n\r\n{"error": "broken"}', "broken"),
    ],
)
def test_what_is_no_answer_loses_the_server(reply, told):
    with pytest.raises(ServerLostError, match=told):
        speaking([reply]).state(5)


def test_the_protocols_of_both_sides_are_the_same():
    from lit_vlm.rollouts.vllm_server import service

    assert vllm_client.PROTOCOL == service.PROTOCOL
