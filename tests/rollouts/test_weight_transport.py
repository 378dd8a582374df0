import pytest
import torch
from safetensors.torch import load

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import WeightBucket
from lit_vlm.rollouts.vllm_client import VLLMClient
from lit_vlm.rollouts.vllm_pool import VLLMPool
from lit_vlm.rollouts.weight_transport import HTTPTransport, to_safetensors
from tests.rollouts.policy_server import Stub, serving, stop

BUCKETS = [WeightBucket({"a": torch.ones(2).bfloat16()}, {}), WeightBucket({"b": torch.zeros(3, 2).T}, {"k": "v"})]


def test_buckets_are_safetensors():
    assert b'"__metadata__":{"k":"v"}' in to_safetensors(BUCKETS[1])
    found = load(to_safetensors(BUCKETS[1]))
    assert found.keys() == {"b"}
    assert torch.equal(found["b"], BUCKETS[1].tensors["b"])


def test_buckets_go_to_all_servers_but_those_lost_on_the_way():
    one, two = Stub(), Stub()
    with serving(one) as (first, _), serving(two) as (second, server):
        pool = VLLMPool([VLLMClient(first), VLLMClient(second)], 30)
        transport = HTTPTransport(pool, 30)
        transport.begin(pool.states())
        transport.send(BUCKETS[0])
        stop(server)
        transport.send(BUCKETS[1])
        transport.finish(3)
        sent = [to_safetensors(bucket) for bucket in BUCKETS]
        assert one.done == ["begin", *sent, "finish"]
        assert two.done == ["begin", sent[0]]
        assert set(pool.lost) == {second}
        assert VLLMClient(first).state().weights == 3
    with pytest.raises(UserError, match="no vLLM server is left"):
        transport.send(BUCKETS[0])
