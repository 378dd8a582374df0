"""Has vLLM servers sample completions, with the policy's weights.

Legend: ``P`` prompts, ``G`` completions of each, ``B`` of all, ``T`` tokens of the longest completion.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import GeneratingPolicy, RolloutEngine, SharesWeights
from lit_vlm.interfaces.records import Completion
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.rollouts import Rollouts, SumOverRanks
from lit_vlm.parsing.answers import check_answer
from lit_vlm.rollouts.hf_rollout_engine import Judge
from lit_vlm.rollouts.row_random import row_seeds
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.stop_strings import StopStrings, check_stop_strings
from lit_vlm.rollouts.vllm_client import VLLMClient
from lit_vlm.rollouts.vllm_pool import VLLMPool
from lit_vlm.rollouts.vllm_process import VLLMProcess
from lit_vlm.rollouts.vllm_requests import SampledTokens, read_answer, request_of, sampling_options
from lit_vlm.rollouts.weight_broadcast import BroadcastTransport
from lit_vlm.rollouts.weight_sync import SyncSettings, WeightSync, describe_prompts, is_first_rank
from lit_vlm.rollouts.weight_transport import HTTPTransport, WeightTransport

Transport = Literal["http", "broadcast"]
TOKEN_VARIABLE = "LIT_VLM_VLLM_TOKEN"


@dataclass(frozen=True)
class VLLMRolloutEngine(RolloutEngine):
    """Sends prompts to vLLM servers, and gets tokens with their log-probabilities; weights follow every update.

    vLLM has an environment of its own, where ``lit_vlm/rollouts/vllm_server/serve.py`` runs. Tokens go in and out,
    never text; an image is sent once for all completions of its prompt. Its log-probabilities differ a little from the
    policy's, which ``model.update.mismatch`` weighs. There are no entropies.
    """

    servers: str | tuple[str, ...] = "http://127.0.0.1:8000"
    """Addresses, such as ``http://127.0.0.1:8000``, several in a list or with commas between them."""
    sampling: SamplingSettings = SamplingSettings()
    """How to sample. vLLM makes its cuts in the order min-p, top-k, top-p."""
    judge: Judge = check_answer
    """Finds and compares answers; samples without an answer have no verdict."""
    start_server: bool = False
    """Whether the first rank starts the server, and ends it with the run; it needs one address, on this machine."""
    python: str | None = None
    """Interpreter of vLLM's environment, for ``start_server``."""
    server_arguments: tuple[str, ...] = ()
    """Further arguments of ``serve.py``, for ``start_server``, such as ``--dtype`` and ``bfloat16``."""
    start_seconds: float = 900.0
    """Longest wait for a server that is started."""
    timeout_seconds: float = 600.0
    """Longest wait for the completions of a prompt, or for a server to take weights."""
    transport: Transport = "http"
    """Way of whole weights: ``http`` goes through main memory and needs no more than the servers' ports; ``broadcast``
    goes through a process group of the first rank and the servers' workers, by NCCL where all are on GPUs of their own,
    else by Gloo, and needs ports that are open both ways. Adapters go by HTTP either way."""
    broadcast_address: str = "127.0.0.1"
    """Address of the first rank's machine, as servers reach it, for ``broadcast``."""
    broadcast_port: int = 0
    """Port there at which the group meets; 0 takes a free one. The backend takes further ones."""
    bucket_megabytes: int = 256
    """Size of the pieces in which weights are sent, but for a single weight that is larger."""
    parity_tolerance: float = 0.1
    """Mean difference of log-probabilities, in nats, from which a server is refused that samples for the first time."""
    _sessions: list[_Session] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the options, and makes clients; nothing is sent yet.

        Raises:
            UserError: An option is out of range, or an address is none.
        """
        for name in ("start_seconds", "timeout_seconds", "bucket_megabytes", "parity_tolerance"):
            if not getattr(self, name) > 0:
                raise UserError(f"model.engine.{name} is {getattr(self, name)}; give a number above 0")
        if self.transport not in get_args(Transport):
            raise UserError(f"model.engine.transport is {self.transport!r}; give {' or '.join(get_args(Transport))}")
        if not 0 <= self.broadcast_port < 1 << 16:
            raise UserError(f"model.engine.broadcast_port is {self.broadcast_port}; give 0 or a port up to 65535")
        if self.start_server and self.python is None:
            raise UserError(
                "model.engine.start_server needs model.engine.python, the interpreter of an environment that has vLLM, "
                "such as VLLM/bin/python"
            )
        clients = self._clients()
        if self.start_server and len(clients) > 1:
            raise UserError("model.engine.start_server starts one server; give model.engine.servers one address")

    @property
    def temperature(self) -> float:
        """The sampling temperature."""
        return self.sampling.temperature

    @property
    def max_new_tokens(self) -> int:
        """Longest completion, in tokens."""
        return self.sampling.max_new_tokens

    @property
    def has_own_weights(self) -> bool:
        """Always."""
        return True

    def check(self, policy: GeneratingPolicy, encoder: SampleEncoder) -> None:
        """Starts the server, where it is to, and refuses what servers cannot do.

        Raises:
            UserError: A stop string cannot be written, the policy's weights cannot be sent, or no server answers.
        """
        check_stop_strings(self.sampling.stop_strings, encoder)
        most = policy.context_tokens
        if most is not None and self.sampling.max_new_tokens >= most:
            raise UserError(
                f"sampling.max_new_tokens is {self.sampling.max_new_tokens}, but the model's context holds {most} with "
                "the prompt; lower it"
            )
        if not isinstance(policy, SharesWeights):
            raise UserError(f"{type(policy).__name__} does not share its weights; choose HFRolloutEngine")
        rank = policy.shared_adapter_rank()
        if self.start_server and is_first_rank():
            self._start(policy.weight_source, rank)

    def follow(
        self,
        policy: GeneratingPolicy,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        step: int,
        sum_over_ranks: SumOverRanks,
    ) -> None:
        """Sends the weights to all servers, unless they have them; the first two times it compares what they compute.

        Raises:
            UserError: No server takes them, or one computes something else with them.
        """
        self._connected().sync.follow(policy, encoder, prompts, step, sum_over_ranks)

    @torch.no_grad()
    def __call__(
        self,
        policy: GeneratingPolicy,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        group_size: int,
        seeds: Sequence[int],
        media: object | None = None,
    ) -> Rollouts:
        """Samples ``group_size`` completions of each prompt; see ``RolloutEngine``. Images are sent, not ``media``.

        Raises:
            UserError: No server is left, one reads another prompt than the policy, or ``group_size`` is below 1.
            ValueError: There are not as many seeds as prompts.
        """
        of_rows = row_seeds(seeds, len(prompts), group_size, torch.device("cpu")).view(-1, group_size).tolist()
        session = self._connected()
        start = time.perf_counter()
        written = describe_prompts(encoder, prompts)
        sampling = sampling_options(self.sampling, policy)
        requests = [
            request_of(prompt, sampling, own, session.sync.version)
            for prompt, own in zip(written, of_rows, strict=True)
        ]
        sent = time.perf_counter()
        answers = session.pool.generate(requests)
        sampled = [
            completion
            for answer, prompt, sample, request in zip(answers, written, prompts.samples, requests, strict=True)
            for completion in read_answer(answer, prompt, sample, request)
        ]
        decoded = time.perf_counter()
        rollouts = self._rollouts(encoder, prompts, policy.padding_id, sampled, group_size, decoded - sent)
        rollouts.seconds = {
            "sync": session.sync.seconds,
            "send": sent - start,
            "decode": decoded - sent,
            "text": time.perf_counter() - decoded,
        }
        return rollouts

    def _rollouts(
        self,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        padding_id: int,
        sampled: Sequence[SampledTokens],
        group_size: int,
        seconds: float,
    ) -> Rollouts:
        device = prompts.input_ids.device
        stops = StopStrings(self.sampling.stop_strings, encoder.decode)
        kept = [stops.cut(one.token_ids) for one in sampled]
        token_ids = _padded([torch.tensor(ids) for ids, _, _ in kept], padding_id)
        mask = _padded([torch.ones(len(ids), dtype=torch.int64) for ids, _, _ in kept], 0)
        log_probs = _padded(
            [torch.tensor(one.log_probs[: len(ids)]) for one, (ids, _, _) in zip(sampled, kept, strict=True)], 0
        )
        completions: list[Completion] = []
        for row, ((ids, text, _), total) in enumerate(zip(kept, log_probs.sum(1).tolist(), strict=True)):
            sample = prompts.samples[row // group_size]
            described = completions[-1].prompt if row % group_size else encoder.describe_prompt(sample)
            verdict = None if sample.answer is None else self.judge(text, sample.answer)
            completions.append(Completion(sample, described, text, verdict, total, len(ids), seconds / len(kept)))
        cut = [one.is_truncated and not is_stopped for one, (_, _, is_stopped) in zip(sampled, kept, strict=True)]
        return Rollouts(
            prompts=prompts,
            prompt_of=torch.arange(len(prompts), device=device).repeat_interleave(group_size),
            token_ids=token_ids.to(device),
            mask=mask.to(device),
            log_probs=log_probs.to(device),
            is_truncated=torch.tensor(cut, dtype=torch.bool, device=device),
            completions=tuple(completions),
        )

    def _clients(self) -> list[VLLMClient]:
        given = self.servers.split(",") if isinstance(self.servers, str) else self.servers
        clients = [VLLMClient(address.strip(), os.environ.get(TOKEN_VARIABLE)) for address in given]
        if not clients or len({client.address for client in clients}) < len(clients):
            raise UserError(f"model.engine.servers is {self.servers!r}; give one address or more, each once")
        return clients

    def _connected(self) -> _Session:
        if not self._sessions:
            pool = VLLMPool(self._clients(), self.timeout_seconds)
            settings = SyncSettings(self.timeout_seconds, self.bucket_megabytes << 20, self.parity_tolerance)
            sync = WeightSync(pool, self.sampling, settings, self._transport(pool))
            self._sessions.append(_Session(pool, sync))
        return self._sessions[0]

    def _transport(self, pool: VLLMPool) -> WeightTransport:
        if self.transport == "http":
            return HTTPTransport(pool, self.timeout_seconds)
        return BroadcastTransport(pool, self.timeout_seconds, self.broadcast_address, self.broadcast_port)

    def _start(self, model: str, rank: int | None) -> None:
        (client,) = self._clients()
        adapter = () if rank is None else ("--max_lora_rank", str(rank))
        process = VLLMProcess(self.python or "", client, model, (*adapter, *self.server_arguments))
        process.wait(self.start_seconds)
        self._connected().process = process


@dataclass
class _Session:
    """What an engine has open."""

    pool: VLLMPool
    sync: WeightSync
    process: VLLMProcess | None = None


def _padded(rows: Sequence[Tensor], fill: int) -> Tensor:
    """Puts rows of different length together, padded on the right."""
    return pad_sequence(list(rows), batch_first=True, padding_value=fill)
