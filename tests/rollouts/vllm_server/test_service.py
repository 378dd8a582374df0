import http.client
import threading
import time
from contextlib import closing

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts.vllm_client import NotInGroupError, ServerLostError, VLLMClient
from tests.rollouts.policy_server import Stub, serving

REQUEST = {"version": 7}


@pytest.fixture
def stub():
    backend = Stub()
    with serving(backend, largest_json=1000, largest_weights=2000) as (address, _):
        yield backend, VLLMClient(address)


def test_nothing_is_sampled_with_other_weights_than_those_asked_for(stub):
    backend, client = stub
    assert client.state().weights is None
    with pytest.raises(ServerLostError, match="not those of this round"):
        client.generate({"version": None}, 5)
    client.send_adapter(b"abc", 7, 5)
    assert client.state().weights == 7
    assert client.generate(REQUEST, 5) == backend.answer
    with pytest.raises(ServerLostError, match="not those of this round"):
        client.generate({"version": 8}, 5)
    assert backend.done == [b"abc", REQUEST]


def test_weights_come_in_buckets_between_a_beginning_and_an_end(stub):
    backend, client = stub
    with pytest.raises(ServerLostError, match="after weights/begin"):
        client.send_bucket(b"a", 5)
    with pytest.raises(ServerLostError, match="after weights/begin"):
        client.finish_weights(1, 5)
    client.send_adapter(b"old", 1, 5)
    client.begin_weights(5)
    assert client.state().weights is None
    client.send_bucket(b"a", 5)
    client.send_bucket(b"b" * 2000, 5)
    client.finish_weights(9, 5)
    assert client.state().weights == 9
    assert backend.done == [b"old", "begin", b"a", b"b" * 2000, "finish"]


def test_weights_come_through_a_group_that_the_state_names(stub):
    backend, client = stub
    place = {"name": "g", "rank": 1}
    assert client.state().group is None
    client.join_group(place, 5)
    assert client.state().group == "g"
    with pytest.raises(ServerLostError, match="after weights/begin"):
        client.receive_bucket(1, [], 5)
    client.begin_weights(5)
    client.receive_bucket(1, [["a", "float32", [2]]], 5)
    client.finish_weights(9, 5)
    assert backend.done == [place, "begin", (1, [["a", "float32", [2]]]), "finish"]
    assert client.state().workers == 2


def test_a_group_that_broke_is_told_apart_from_a_server_that_did(stub):
    backend, client = stub
    client.join_group({"name": "g"}, 5)
    client.begin_weights(5)
    backend.broken = "a process is gone"
    with pytest.raises(NotInGroupError, match="a process is gone"):
        client.receive_bucket(1, [], 5)
    assert client.state().group is None
    with pytest.raises(NotInGroupError, match="a process is gone"):
        client.join_group({"name": "g"}, 5)
    assert client.state().group is None
    assert raw(client, "POST", "/weights/receive", b"{}")[0] == 400


def test_new_weights_end_what_is_being_sampled(stub):
    backend, client = stub
    client.send_adapter(b"x", 7, 5)
    backend.seconds = 30.0
    found = []

    def ask():
        with pytest.raises(ServerLostError) as fault:
            client.generate(REQUEST, 20)
        found.append(str(fault.value))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.2)
    start = time.monotonic()
    client.begin_weights(10)
    asking.join(10)
    assert time.monotonic() - start < 5
    assert backend.given_up == 1
    assert "weights changed" in found[0]


def test_a_server_with_a_secret_refuses_those_who_do_not_know_it():
    with serving(Stub(), token="secret") as (address, _):
        for wrong in (None, "", "other", "secre"):
            with pytest.raises(ServerLostError, match="token is missing"):
                VLLMClient(address, wrong).state()
            with pytest.raises(ServerLostError, match="token is missing"):
                VLLMClient(address, wrong).send_adapter(b"x", 1, 5)
            with pytest.raises(ServerLostError, match="token is missing"):
                VLLMClient(address, wrong).join_group({"name": "g"}, 5)
            with pytest.raises(ServerLostError, match="token is missing"):
                VLLMClient(address, wrong).receive_bucket(1, [], 5)
        assert VLLMClient(address, "secret").state().max_lora_rank == 8


def raw(client, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection(client.host, client.port, timeout=5)
    with closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_bodies_that_are_too_long_or_no_json_are_refused_before_they_are_used(stub):
    backend, client = stub
    client.send_adapter(b"x", 7, 5)
    with pytest.raises(UserError, match="2001 bytes; at most 2000"):
        client.send_adapter(b"x" * 2001, 8, 5)
    with pytest.raises(UserError, match="at most 1000"):
        client.generate({"version": 7, "token_ids": [1] * 1000}, 5)
    assert raw(client, "POST", "/generate", b"{")[0] == 400
    assert "no JSON object" in raw(client, "POST", "/generate", b"[1]")[1]
    assert "no whole number" in raw(client, "POST", "/weights/adapter?version=-1", b"x")[1]
    assert raw(client, "GET", "/etc/passwd")[0] == 404
    assert client.state().weights == 7
    assert backend.done == [b"x"]


def test_a_fault_of_the_backend_is_told_and_the_server_goes_on(stub):
    backend, client = stub
    client.send_adapter(b"x", 7, 5)
    backend.fault = RuntimeError("out of memory")
    with pytest.raises(ServerLostError, match="RuntimeError: out of memory"):
        client.generate(REQUEST, 5)
    backend.fault = None
    assert client.generate(REQUEST, 5) == backend.answer


def test_bodies_of_weights_leave_no_files(tmp_path):
    with serving(Stub(), folder=tmp_path) as (address, _):
        VLLMClient(address).send_adapter(b"x" * 100, 1, 5)
    assert list(tmp_path.iterdir()) == []
