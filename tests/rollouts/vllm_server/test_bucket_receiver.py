import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from lit_vlm.rollouts.vllm_server.bucket_receiver import BucketReceiver
from lit_vlm.rollouts.vllm_server.flat_weights import describe_weights, pack_weights
from lit_vlm.rollouts.vllm_server.weight_group import Place, gather, open_store

CPU = torch.device("cpu")
WEIGHTS = {"a": torch.randn(3, 2), "b": torch.tensor(4)}
DESCRIBED = describe_weights(WEIGHTS)


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as made:
        yield made


def met(receiver, executor, seconds=60.0):
    """Has a receiver come to a group; gives the sender's end."""
    store = open_store("127.0.0.1", 0, seconds)
    place = Place("127.0.0.1", store.port, "g", 0, 2, "gloo", seconds)
    joining = executor.submit(receiver.join, replace(place, rank=1), CPU)
    group = gather(store, place, CPU, threading.Event())
    assert joining.result() is None
    return group


def test_a_bucket_is_loaded_once_although_it_comes_twice(executor):
    receiver, loaded = BucketReceiver(), []
    sender = met(receiver, executor)
    for number in (1, 1, 2):
        receiving = executor.submit(receiver.receive, number, DESCRIBED, lambda weights: loaded.append(dict(weights)))
        sender.broadcast(pack_weights(WEIGHTS, CPU))
        assert receiving.result() is None
    assert len(loaded) == 2
    assert all(torch.equal(one[name], value) for one in loaded for name, value in WEIGHTS.items())
    receiver.begin()
    receiving = executor.submit(receiver.receive, 1, DESCRIBED, lambda weights: loaded.append(dict(weights)))
    sender.broadcast(pack_weights(WEIGHTS, CPU))
    assert receiving.result() is None
    assert len(loaded) == 3


def test_a_bucket_that_could_not_be_loaded_is_not_taken_for_loaded(executor):
    receiver, loaded = BucketReceiver(), []
    sender = met(receiver, executor)

    def fail(weights):
        raise RuntimeError("out of memory")

    for load in (fail, lambda weights: loaded.append(dict(weights))):
        receiving = executor.submit(receiver.receive, 1, DESCRIBED, load)
        sender.broadcast(pack_weights(WEIGHTS, CPU))
        if load is fail:
            with pytest.raises(RuntimeError, match="out of memory"):
                receiving.result()
    assert receiving.result() is None
    assert len(loaded) == 1


def test_a_fault_of_the_group_is_told_and_another_group_can_be_joined(executor):
    receiver, loaded = BucketReceiver(), []
    assert receiver.receive(1, DESCRIBED, loaded.append) == "the worker is in no group"
    met(receiver, executor, seconds=1.0)
    assert receiver.receive(1, DESCRIBED, loaded.append)
    assert receiver.receive(1, DESCRIBED, loaded.append) == "the worker is in no group"
    sender = met(receiver, executor)
    receiving = executor.submit(receiver.receive, 1, DESCRIBED, lambda weights: loaded.append(dict(weights)))
    sender.broadcast(pack_weights(WEIGHTS, CPU))
    assert receiving.result() is None
    assert len(loaded) == 1
    place = Place("127.0.0.1", sender.place.port, "h", 1, 2, "gloo", 0.3)
    assert receiver.join(place, CPU) is not None
