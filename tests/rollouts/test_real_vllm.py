"""The engine with vLLM itself, in the environment whose interpreter LIT_VLM_VLLM_PYTHON names."""

import itertools
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
from lit_vlm.rollouts.weight_transport import to_safetensors
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


@pytest.fixture(scope="module", autouse=True)
def _few_resources():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def servers():
    """Two servers, which take their time to start; the last test that uses them ends them."""
    clients = [VLLMClient(f"http://127.0.0.1:{free_port()}") for _ in range(2)]
    processes = [VLLMProcess(PYTHON, client, str(TINY_FOLDER), ARGUMENTS) for client in clients]
    for process in processes:
        process.wait(START_SECONDS)
    running = dict(zip([client.address for client in clients], processes, strict=True))
    yield running
    for process in running.values():
        process.end()


def remote(servers, tokens=12, transport="http", **sampling):
    return VLLMRolloutEngine(
        tuple(servers),
        SamplingSettings(max_new_tokens=tokens, **sampling),
        timeout_seconds=600,
        parity_tolerance=TOLERANCE,
        bucket_megabytes=1,
        transport=transport,
    )


@pytest.mark.parametrize("transport", ["http", "broadcast"])
@pytest.mark.parametrize("adapter", [AdapterSettings(rank=4), None], ids=["adapter", "all weights"])
def test_what_was_learnt_arrives_and_is_what_samples(servers, adapter, transport, make_sample):
    backbone = Backbone(adapter=adapter)
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).eval()
    generator = DigitsReasoningGenerator()
    samples = [generator.sample("train", 0), make_sample("i see 7.", "7", images=2, sample_id="two")]
    samples.append(make_sample("i see 7.", "7", images=0, sample_id="none"))
    prompts = encoder.encode_prompts(samples)
    made = remote(servers, transport=transport, temperature=0.7, top_p=0.9, stop_strings=("3",))
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


def moved(by=0.02):
    """A policy whose weights are not those on disk."""
    backbone = Backbone()
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).eval()
    with torch.no_grad():
        for value in policy.parameters():
            value += by * torch.randn(value.shape, generator=torch.Generator().manual_seed(7))
    return encoder, policy, encoder.encode_prompts([DigitsReasoningGenerator().sample("train", 0)])


def sampled_by(made, encoder, policy, prompts):
    made.check(policy, encoder)
    made.follow(policy, encoder, prompts, 0, lambda value: value)
    return made(policy, encoder, prompts, 8, (1,))


def test_both_ways_bring_the_same_weights(servers):
    moves = moved()
    by_http, by_broadcast = (
        sampled_by(remote(servers, transport=transport), *moves) for transport in ("http", "broadcast")
    )
    assert rows_of(by_http) == rows_of(by_broadcast)
    assert float((by_http.log_probs - by_broadcast.log_probs).abs().max()) < 1e-5


def test_weights_that_broke_off_half_way_come_whole_the_next_time(servers):
    encoder, policy, prompts = moved(by=0.03)
    for address in servers:
        client = VLLMClient(address)
        client.begin_weights(600)
        for bucket in itertools.islice(policy.weight_buckets(torch.float32, 1 << 20, keep=True), 3):
            client.send_bucket(to_safetensors(bucket), 600)
    found = sampled_by(remote(servers, temperature=0.7), encoder, policy, prompts)
    log_probs, _ = teacher_forced(policy, encoder, found, 0.7)
    assert float((log_probs - found.log_probs).abs().max()) < TOLERANCE


def test_a_server_that_dies_while_weights_come_leaves_them_to_the_other(servers, monkeypatch):
    """The third bucket kills one server, which is started again for the tests that follow."""
    victim, other = servers
    moves = moved(by=0.01)
    made = remote(servers, transport="broadcast")
    expected = rows_of(sampled_by(remote([other]), *moves))
    receive = VLLMClient.receive_bucket

    def kill(client, number, described, seconds):
        if client.address == victim and number == 3:
            os.killpg(servers[victim].pid, signal.SIGKILL)
        receive(client, number, described, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(VLLMClient, "receive_bucket", kill)
        start = time.monotonic()
        assert rows_of(sampled_by(made, *moves)) == expected
    assert time.monotonic() - start < 300
    servers[victim].end()
    servers[victim] = VLLMProcess(PYTHON, VLLMClient(victim), str(TINY_FOLDER), ARGUMENTS)
    servers[victim].wait(START_SECONDS)
    encoder, policy, prompts = moves
    made.follow(policy, encoder, prompts, 1, lambda value: value)
    assert rows_of(made(policy, encoder, prompts, 8, (1,))) == expected
    assert {VLLMClient(address).state().weights for address in servers} == {made._sessions[0].sync.version}


@pytest.mark.parametrize("transport", ["http", "broadcast"])
def test_a_run_learns(servers, transport):
    model = module(TINY_FOLDER, rate=2e-3, engine=remote(servers, tokens=8, transport=transport), group_size=8)
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


def test_each_worker_of_a_server_has_its_place_in_the_group():
    client = VLLMClient(f"http://127.0.0.1:{free_port()}")
    process = VLLMProcess(PYTHON, client, str(TINY_FOLDER), (*ARGUMENTS, "--devices", "2"))
    process.wait(START_SECONDS)
    try:
        assert client.state().workers == 2
        moves = moved()
        by_http, by_broadcast = (
            sampled_by(remote([client.address], transport=transport), *moves) for transport in ("http", "broadcast")
        )
    finally:
        process.end()
    assert rows_of(by_http) == rows_of(by_broadcast)


def servers_at(port):
    """Finds servers that listen, or are to listen, at a port, by what they were started with."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.endswith("serve.py") for word in words) and str(port) in words:
            found.append(int(folder.name))
    return found


def group_of(leader):
    """Finds the processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        state, _, group = stat.rpartition(")")[2].split()[:3]
        if int(group) == leader and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.engine.transport", "broadcast"], None),
        (["--model.engine.parity_tolerance", "1e-30"], "does not compute what the policy does"),
    ],
    ids=["done", "failed"],
)
def test_a_server_that_the_run_starts_is_gone_with_it(tmp_path, words, told):
    port = free_port()
    command = [
        sys.executable, "-m", "lit_vlm", "fit", "--config", "grpo/vllm",
        "--model.engine.servers", f"http://127.0.0.1:{port}",
        "--model.engine.start_server", "true",
        "--model.engine.python", PYTHON,
        "--model.engine.server_arguments", json.dumps([*ARGUMENTS[:4], *ARGUMENTS[6:]]),
        "--model.engine.sampling.max_new_tokens", "8",
        "--data.train_size", "16", "--data.validation_size", "8", "--data.batch_size", "2",
        "--data.num_workers", "0",
        "--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path),
        *words,
    ]  # fmt: skip
    with (tmp_path / "log").open("w+") as log:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            while not (found := servers_at(port)) and run.poll() is None:
                time.sleep(0.2)
            code = run.wait(START_SECONDS)
        finally:
            run.kill()
            run.wait()
        log.seek(0)
        written = log.read()
    assert (code == 0) == (told is None), written[-3000:]
    assert told is None or told in written
    (leader,) = found
    deadline = time.monotonic() + 30
    while group_of(leader) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert group_of(leader) == []
    assert servers_at(port) == []
