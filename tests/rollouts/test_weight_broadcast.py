import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import WeightBucket
from lit_vlm.rollouts.vllm_client import NotInGroupError, VLLMClient
from lit_vlm.rollouts.vllm_pool import VLLMPool
from lit_vlm.rollouts.weight_broadcast import BroadcastTransport
from tests.rollouts import weight_holders

SECONDS = 120  # a busy machine is slow
BUCKETS = [
    {"embeddings": torch.randn(7, 3).bfloat16(), "counter": torch.tensor(5)},
    {"blocks.0": torch.randn(1000, 1000).bfloat16()},
    {"blocks.1": torch.randn(33).bfloat16(), "steps": torch.arange(3), "none": torch.zeros(0, 4)},
]


@pytest.fixture(scope="module")
def forks():
    """A process that forks servers; it ends with its input, and they with it."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(weight_holders.__file__))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        process.stdin.write('{"workers": 0}\n')
        process.stdin.flush()
        os.kill(json.loads(process.stdout.readline())["process"], signal.SIGKILL)
        yield process
        process.stdin.close()


@pytest.fixture
def holder(forks):
    """Starts servers that end with the test."""
    processes = []

    def start(**options):
        forks.stdin.write(json.dumps(options) + "\n")
        forks.stdin.flush()
        told = json.loads(forks.stdout.readline())
        processes.append(told["process"])
        return VLLMClient(f"http://127.0.0.1:{told['port']}"), told["process"]

    yield start
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def transport_to(*clients, seconds=SECONDS, **options):
    pool = VLLMPool(clients, seconds)
    return pool, BroadcastTransport(pool, seconds, options.pop("address", "127.0.0.1"), **options)


def hand_over(pool, transport, version=1):
    transport.begin(pool.states())
    for tensors in BUCKETS:
        transport.send(WeightBucket(tensors, {}))
    transport.finish(version)


def what_has(client, version=1):
    told = client.generate({"version": version}, SECONDS)
    return told["weights"], told["loads"]


WANTED = {name: weight_holders.digest(value) for tensors in BUCKETS for name, value in tensors.items()}


def test_all_workers_of_all_servers_get_the_very_weights(holder):
    (one, _), (two, _) = holder(), holder(workers=2)
    pool, transport = transport_to(one, two)
    hand_over(pool, transport)
    assert what_has(one) == ([WANTED], len(BUCKETS))
    assert what_has(two) == ([WANTED, WANTED], len(BUCKETS))
    names = {one.state().group, two.state().group}
    assert len(names) == 1
    hand_over(pool, transport, version=2)
    assert what_has(two, 2) == ([WANTED, WANTED], len(BUCKETS))
    assert {one.state().group, two.state().group} == names, "a group that holds is kept"


@pytest.mark.parametrize("fault", [{"dies_at": 2}, {"dies_at": 2, "dies_loading": True}, {"refuses_at": 2}])
def test_the_others_go_on_where_a_server_dies_and_take_each_bucket_once(holder, fault):
    (one, _), (two, _), (three, _) = holder(), holder(**fault), holder(workers=2)
    pool, transport = transport_to(one, two, three)
    hand_over(pool, transport)
    assert set(pool.lost) == {two.address}
    assert what_has(one) == ([WANTED], len(BUCKETS))
    assert what_has(three) == ([WANTED, WANTED], len(BUCKETS))
    assert one.state().group == three.state().group is not None


def test_a_server_that_comes_back_takes_part_again(holder):
    (one, _), (two, process) = holder(), holder()
    pool, transport = transport_to(one, two)
    hand_over(pool, transport)
    os.kill(process, signal.SIGKILL)
    hand_over(pool, transport, version=2)
    assert set(pool.lost) == {two.address}
    assert what_has(one, 2) == ([WANTED], len(BUCKETS))
    holder(port=two.port)
    hand_over(pool, transport, version=3)
    assert pool.lost == {}
    assert what_has(one, 3) == what_has(two, 3) == ([WANTED], len(BUCKETS))


def test_a_server_that_stands_still_is_waited_for_no_longer_than_told(holder, monkeypatch):
    monkeypatch.setattr("lit_vlm.rollouts.weight_broadcast.GRACE_SECONDS", 1.0)
    (one, _), (two, _) = holder(), holder(stops_at=2)
    pool, transport = transport_to(one, two, seconds=3)
    start = time.monotonic()
    hand_over(pool, transport)
    assert time.monotonic() - start < 30
    assert set(pool.lost) == {two.address}
    assert what_has(one) == ([WANTED], len(BUCKETS))


def test_with_no_server_left_the_run_ends_with_their_names(holder):
    (one, _), (two, _) = holder(dies_at=1), holder(dies_at=3)
    pool, transport = transport_to(one, two)
    with pytest.raises(UserError, match="no vLLM server is left") as fault:
        hand_over(pool, transport)
    assert one.address in str(fault.value)
    assert two.address in str(fault.value)


def test_a_group_that_never_holds_ends_the_run(holder, monkeypatch):
    client, _ = holder()
    pool, transport = transport_to(client)
    asked = []

    def breaks(number, described, seconds):
        asked.append(number)
        raise NotInGroupError(client.address, "no route")

    monkeypatch.setattr(client, "receive_bucket", breaks)
    with pytest.raises(UserError, match=r"cannot keep a process group \(.*no route\).*transport http"):
        hand_over(pool, transport)
    assert asked == [1, 1]


def test_an_address_that_the_workers_do_not_reach_is_told(holder, monkeypatch):
    client, _ = holder()
    pool, transport = transport_to(client)
    join = client.join_group
    monkeypatch.setattr(client, "join_group", lambda place, seconds: join({**place, "port": 1}, seconds))
    with pytest.raises(UserError, match=r"does not reach the trainer at 127\.0\.0\.1, port 1 .*broadcast_address"):
        hand_over(pool, transport)


def test_an_address_of_another_machine_is_refused(holder):
    client, _ = holder()
    pool, transport = transport_to(client, address="192.0.2.1", port=7)
    with pytest.raises(UserError, match=r"broadcast_address 192\.0\.2\.1 cannot be listened at, port 7"):
        hand_over(pool, transport)


def test_a_port_serves_all_groups_one_after_another(holder):
    (one, _), (two, process) = holder(), holder()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pool, transport = transport_to(one, two, port=port)
    hand_over(pool, transport)
    os.kill(process, signal.SIGKILL)
    hand_over(pool, transport, version=2)
    assert what_has(one, 2) == ([WANTED], len(BUCKETS))
