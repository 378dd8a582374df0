"""GRPO with completions by a server, on one process and on two."""

import pytest

from tests.paradigms.processes import run_ranks
from tests.paradigms.test_grpo import same_weights
from tests.rollouts.policy_server import PolicyBackend, serving

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.paradigms import on_policy_material as material
import torch
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.vllm_rollout_engine import VLLMRolloutEngine
folder, address, transport, devices, batch_size, out = sys.argv[1:]
engine = VLLMRolloutEngine(
    address, SamplingSettings(max_new_tokens=5), timeout_seconds=200, bucket_megabytes=1, transport=transport
)
model = material.module(folder, engine=engine)
options = dict(devices=2, strategy="ddp") if devices == "2" else {{}}
watch, weights = material.fit(model, material.data(model.encoder, batch_size=int(batch_size)), steps=3, **options)
if model.global_rank == 0:
    torch.save(weights, out)
if torch.distributed.is_initialized():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""
ROUNDS, PROMPTS, PROBES = 3, 4, 2


class NotingBackend(PolicyBackend):
    """Keeps what it was asked for and what it answered."""

    def __init__(self, folder):
        super().__init__(folder)
        self.answered = []

    def generate(self, request, given_up):
        answer = super().generate(request, given_up)
        tokens = tuple(tuple(one["token_ids"]) for one in answer["completions"])
        self.answered.append((tuple(request["token_ids"]), tuple(request["images"]), tuple(request["seeds"]), tokens))
        return answer


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["http", "broadcast"])
def test_two_ranks_sample_and_learn_what_one_does_and_the_first_sends_the_weights(
    random_tiny_folder, tmp_path, transport
):
    found = []
    for ranks in (1, 2):
        backend = NotingBackend(random_tiny_folder)
        with serving(backend) as (address, _):
            weights = run_ranks(
                SCRIPT, tmp_path / f"{ranks}.pt", ranks, random_tiny_folder, address, transport, ranks, PROMPTS // ranks
            )
        # Each set of weights came once, whole, and from one sender: the group has two processes, whatever the ranks.
        assert (backend.loaded, len(backend.buckets)) == (ROUNDS, ROUNDS)
        assert backend.joins == (transport == "broadcast")
        assert len({tuple(map(tuple, buckets)) for buckets in backend.buckets}) == 1
        assert len(backend.answered) == ROUNDS * PROMPTS + PROBES
        found.append((sorted(one for one in backend.answered if len(one[2]) > 1), weights))
    (alone, one), (together, two) = found
    assert alone == together
    same_weights(one, two, 1e-4)
