import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from lit_vlm.rollouts.vllm_server.weight_group import (
    GroupBrokenError,
    Place,
    UnreachableError,
    WeightGroup,
    _environment,
    bounded,
    gather,
    join,
    open_store,
    own_address,
)

CPU = torch.device("cpu")


def meeting(size, seconds=60.0, name="g"):
    store = open_store("127.0.0.1", 0, seconds)
    return store, Place("127.0.0.1", store.port, name, 0, size, "gloo", seconds)


def formed(size, seconds=60.0):
    """A group whose processes are threads; its members by rank."""
    store, place = meeting(size, seconds)
    with ThreadPoolExecutor(size) as executor:
        workers = [executor.submit(join, replace(place, rank=rank), CPU) for rank in range(1, size)]
        return [gather(store, place, CPU, threading.Event()), *(worker.result() for worker in workers)]


def test_all_get_what_the_first_sends_apart_from_the_default_group():
    groups = formed(4)
    sent = torch.arange(1000, dtype=torch.uint8)
    received = [torch.zeros(1000, dtype=torch.uint8) for _ in groups[1:]]
    for _ in range(2):
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(lambda group, flat: group.broadcast(flat), groups, [sent, *received]))
        assert all(torch.equal(one, sent) for one in received)
        sent = sent.flip(0)
    assert not distributed.is_initialized()
    for group in groups:
        group.close()


def test_who_waits_in_vain_is_told_in_time():
    first, second = formed(2, seconds=1.5)
    start = time.monotonic()
    with pytest.raises(GroupBrokenError):
        second.broadcast(torch.zeros(8, dtype=torch.uint8))
    assert time.monotonic() - start < 20
    first.close()


def test_a_wait_ends_once_it_is_of_no_use():
    given_up, hold = threading.Event(), threading.Event()
    threading.Timer(0.2, given_up.set).start()
    with pytest.raises(GroupBrokenError, match="another process did not take part"):
        bounded(hold.wait, 60, given_up)
    with pytest.raises(GroupBrokenError, match=r"not done within 0\.1 s"):
        bounded(hold.wait, 0.1)
    hold.set()
    assert bounded(lambda: 3, 60) == 3

    def breaks():
        raise RuntimeError("connection reset\nat some line")

    with pytest.raises(GroupBrokenError, match="^connection reset$"):
        bounded(breaks, 60)
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 / 0, 60)


def test_a_group_that_not_all_come_to_ends_for_those_who_came():
    store, place = meeting(3)
    given_up = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(join, replace(place, rank=1), CPU)
        threading.Timer(0.2, given_up.set).start()
        with pytest.raises(GroupBrokenError, match="not all processes came"):
            gather(store, place, CPU, given_up)
        with pytest.raises(GroupBrokenError, match="another process did not come"):
            waiting.result(30)
    with pytest.raises(GroupBrokenError, match="not all"):
        gather(store, replace(place, name="h", seconds=0.1), CPU, threading.Event())


def test_groups_of_other_names_do_not_meet():
    store, place = meeting(2, seconds=0.5)
    with ThreadPoolExecutor(1) as executor:
        other = executor.submit(join, replace(place, rank=1, name="other"), CPU)
        with pytest.raises(GroupBrokenError, match="not all"):
            gather(store, place, CPU, threading.Event())
        with pytest.raises(GroupBrokenError):
            other.result(30)


def test_a_trainer_that_cannot_be_reached_is_told_with_the_option():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match=rf"at 127\.0\.0\.1, port {port} .*model\.engine\.broadcast_address"):
        join(Place("127.0.0.1", port, "g", 1, 2, "gloo", 5.0), CPU)


def test_the_store_listens_at_its_address_alone():
    store, place = meeting(2)
    assert own_address(place) == "127.0.0.1"
    with pytest.raises(OSError, match="in use"):
        open_store("127.0.0.1", store.port, 5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", store.port), timeout=5)


def test_nccl_is_made_so_that_it_waits_and_ends_no_process(monkeypatch):
    made = []

    class Backend:
        Options = SimpleNamespace

        def __init__(self, store, rank, size, options):
            made.append((rank, size, options._timeout.total_seconds(), os.environ.get("TORCH_NCCL_BLOCKING_WAIT")))

        def broadcast(self, tensors, options):
            made.append((len(tensors), options.rootRank))
            return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(distributed, "ProcessGroupNCCL", Backend, raising=False)
    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    store, place = meeting(2)
    WeightGroup(store, replace(place, backend="nccl"), CPU)
    assert made == [(0, 2, 60.0, "1"), (1, 0)]
    assert "TORCH_NCCL_BLOCKING_WAIT" not in os.environ


def test_a_variable_of_the_environment_is_set_for_a_while(monkeypatch):
    monkeypatch.delenv("LIT_VLM_A", raising=False)
    monkeypatch.setenv("LIT_VLM_B", "0")
    with _environment("LIT_VLM_A", "1"), _environment("LIT_VLM_B", "1"):
        assert (os.environ["LIT_VLM_A"], os.environ["LIT_VLM_B"]) == ("1", "1")
    assert "LIT_VLM_A" not in os.environ
    assert os.environ["LIT_VLM_B"] == "0"
