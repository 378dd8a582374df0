import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.vllm_client import ServerState, VLLMClient
from lit_vlm.rollouts.vllm_pool import VLLMPool
from lit_vlm.rollouts.weight_broadcast import BroadcastTransport
from lit_vlm.rollouts.weight_sync import SyncSettings, WeightSync, check_states, given_log_probs
from lit_vlm.rollouts.weight_transport import HTTPTransport
from tests.rollouts.policy_server import PolicyBackend, serving

SECONDS = 300  # a busy machine is slow


def alone(value):
    return value


@pytest.fixture
def tiny(random_tiny_encoder, random_tiny_model, image_sample):
    return random_tiny_encoder, random_tiny_model, random_tiny_encoder.encode_prompts([image_sample])


def sync_with(*addresses, tolerance=0.001, transport="http", **sampling):
    pool = VLLMPool([VLLMClient(address) for address in addresses], SECONDS)
    settings = SamplingSettings(max_new_tokens=6, **sampling)
    way = BroadcastTransport(pool, SECONDS, "127.0.0.1") if transport == "broadcast" else HTTPTransport(pool, SECONDS)
    return WeightSync(pool, settings, SyncSettings(SECONDS, 1 << 16, tolerance), way)


@pytest.mark.parametrize("transport", ["http", "broadcast"])
def test_weights_go_over_once_a_step_whole_and_in_buckets(random_tiny_folder, tiny, transport):
    encoder, policy, prompts = tiny
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.05
    backend = PolicyBackend(random_tiny_folder)
    with serving(backend) as (address, _):
        sync = sync_with(address, transport=transport, temperature=0.7)
        sync.follow(policy, encoder, prompts, 0, alone)
        assert len(backend.buckets[0]) > 2
        theirs = backend.policy.model.state_dict()
        assert all(torch.equal(theirs[name], value) for name, value in policy.model.state_dict().items())
        assert VLLMClient(address).state().weights == sync.version > 0
        first = sync.version
        sync.follow(policy, encoder, prompts, 0, alone)
        assert (backend.loaded, sync.version) == (1, first)
        sync.follow(policy, encoder, prompts, 1, alone)
        assert backend.loaded == 2
        assert sync.version != first
        sync.follow(policy, encoder, prompts, 2, alone)
        assert len(backend.requests) == 2, "the first two syncs are probed"
        assert backend.joins == (transport == "broadcast"), "one group serves all syncs"


@pytest.mark.parametrize("transport", ["http", "broadcast"])
@pytest.mark.parametrize("fault", [{"spoil": 0.05}, {"ignores": True}])
def test_a_server_that_computes_something_else_stops_the_run(random_tiny_folder, tiny, fault, transport):
    encoder, policy, prompts = tiny
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    with serving(PolicyBackend(random_tiny_folder, **fault)) as (address, _):
        with pytest.raises(UserError, match="does not compute what the policy does") as told:
            sync_with(address, transport=transport).follow(policy, encoder, prompts, 0, alone)
        assert address in str(told.value)
        assert "sample 's'" in str(told.value)


def test_a_server_is_left_out_where_it_cannot_be_reached(random_tiny_folder, tiny):
    encoder, policy, prompts = tiny
    with serving(PolicyBackend(random_tiny_folder)) as (address, _):
        sync = sync_with("http://127.0.0.1:9", address)
        sync.follow(policy, encoder, prompts, 0, alone)
        assert VLLMClient(address).state().weights == sync.version
    with pytest.raises(UserError, match="no vLLM server is left"):
        sync.follow(policy, encoder, prompts, 1, alone)


def test_other_ranks_hear_of_a_fault_of_the_first(tiny, monkeypatch):
    encoder, policy, prompts = tiny
    monkeypatch.setattr("lit_vlm.rollouts.weight_sync.is_first_rank", lambda: False)
    sync = sync_with("http://127.0.0.1:9")
    with pytest.raises(UserError, match="the first rank could not hand the weights"):
        sync.follow(policy, encoder, prompts, 0, lambda value: value + torch.tensor([1, 0]))
    sync.follow(policy, encoder, prompts, 0, lambda value: value + torch.tensor([0, 77]))
    assert sync.version == 77


def test_given_tokens_are_scored_as_by_a_pass_over_all(tiny):
    encoder, policy, prompts = tiny
    tokens = torch.tensor([[token for token in range(20, 40) if token not in policy.unsampled_token_ids][:3]])
    found = given_log_probs(policy, prompts, tokens[0].tolist(), 0.7)
    with torch.no_grad():
        scored = policy.score_rollouts(prompts, tokens, torch.ones_like(tokens), torch.tensor([0]), temperature=0.7)
    torch.testing.assert_close(found, scored.log_probs[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("most", "told"), [(0, "takes no adapters"), (8, "takes adapters up to rank 8")])
def test_servers_that_take_no_such_adapter_are_refused(most, told):
    states = {"http://a:1": ServerState("m", "float32", 64, most, None, "0")}
    with pytest.raises(UserError, match=told) as fault:
        check_states(states, 16)
    assert "--max_lora_rank 16" in str(fault.value)
    check_states(states, None)
    check_states({"a": ServerState("m", "float32", 64, 16, None, "0")}, 16)
