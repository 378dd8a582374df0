"""The engine with vLLM itself, in the environment whose interpreter LIT_VLM_VLLM_PYTHON names."""

import os
import signal
import socket

import pytest
import torch

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.vllm_client import VLLMClient
from lit_vlm.rollouts.vllm_process import VLLMProcess
from lit_vlm.rollouts.vllm_rollout_engine import VLLMRolloutEngine
from tests.paradigms.on_policy_material import data, fit, module
from tests.rollouts.material import rows_of, teacher_forced

PYTHON = os.environ.get("LIT_VLM_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="LIT_VLM_VLLM_PYTHON names no interpreter of an environment that has vLLM"),
]
ARGUMENTS = (
    "--dtype", "float32", "--max_tokens", "1024", "--max_lora_rank", "16", "--options", '{"enforce_eager": true}'
)  # fmt: skip
START_SECONDS = 1800
TOLERANCE = 1e-3


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def servers():
    """Two servers, which take their time to start; the last test ends them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}.items():
            patch.setenv(name, value)
        clients = [VLLMClient(f"http://127.0.0.1:{free_port()}") for _ in range(2)]
        processes = [VLLMProcess(PYTHON, client, str(TINY_FOLDER), ARGUMENTS) for client in clients]
    for process in processes:
        process.wait(START_SECONDS)
    yield dict(zip([client.address for client in clients], processes, strict=True))
    for process in processes:
        process.end()


def remote(servers, tokens=12, **sampling):
    return VLLMRolloutEngine(
        tuple(servers),
        SamplingSettings(max_new_tokens=tokens, **sampling),
        timeout_seconds=600,
        parity_tolerance=TOLERANCE,
        bucket_megabytes=1,
    )


@pytest.mark.parametrize("adapter", [AdapterSettings(rank=4), None], ids=["adapter", "all weights"])
def test_what_was_learnt_arrives_and_is_what_samples(servers, adapter, make_sample):
    backbone = Backbone(adapter=adapter)
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).eval()
    generator = DigitsReasoningGenerator()
    samples = [generator.sample("train", 0), make_sample("i see 7.", "7", images=2, sample_id="two")]
    samples.append(make_sample("i see 7.", "7", images=0, sample_id="none"))
    prompts = encoder.encode_prompts(samples)
    made = remote(servers, temperature=0.7, top_p=0.9, stop_strings=("3",))
    made.check(policy, encoder)
    earlier = None
    for step in range(3):
        made.follow(policy, encoder, prompts, step, lambda value: value)
        found = made(policy, encoder, prompts, 4, (1, 2, 3))
        log_probs, _ = teacher_forced(policy, encoder, found, 0.7)
        assert float((log_probs - found.log_probs).abs().max()) < TOLERANCE
        again = made(policy, encoder, prompts, 4, (1, 2, 3))
        assert rows_of(again) == rows_of(found), "the same seeds give the same completions, whoever samples them"
        assert rows_of(found) != earlier
        earlier = rows_of(found)
        with torch.no_grad():
            for value in policy.parameters():
                if value.requires_grad:
                    value += 0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(step))
    with torch.no_grad():
        log_probs, _ = teacher_forced(policy, encoder, found, 0.7)
    assert float((log_probs - found.log_probs).abs().max()) > 10 * TOLERANCE, "what was learnt since is another policy"


def test_a_run_learns(servers):
    model = module(TINY_FOLDER, rate=2e-3, engine=remote(servers, tokens=8), group_size=8)
    watch, _ = fit(model, data(model.encoder), steps=14)
    rewards = watch.figure("reward/mean")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1
    assert max(watch.figure("mismatch_max")) < TOLERANCE


class Killer(RolloutCallback):
    """Kills servers after some rounds, with all that they started."""

    def __init__(self, processes, rounds):
        self.processes, self.rounds = list(processes), list(rounds)

    def on_before_rollout(self, trainer, pl_module, iteration):
        if iteration.step in self.rounds:
            os.killpg(self.processes.pop(0).pid, signal.SIGKILL)


def test_a_run_outlives_one_server_but_not_both(servers):
    model = module(TINY_FOLDER, engine=remote(servers))
    watch, _ = fit(model, data(model.encoder), steps=4, callbacks=[Killer(servers.values(), [2])])
    assert len(watch.iterations) == 4
    model = module(TINY_FOLDER, engine=remote(servers))
    with pytest.raises(UserError, match="no vLLM server is left") as fault:
        fit(model, data(model.encoder), steps=4, callbacks=[Killer(list(servers.values())[1:], [2])])
    assert all(address in str(fault.value) for address in servers)
