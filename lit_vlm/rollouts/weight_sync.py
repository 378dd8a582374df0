"""Keeps the weights of servers those of the policy, and proves it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import EnginePrompt, GeneratingPolicy, SharesWeights, WritesEnginePrompts
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.rollouts import SumOverRanks
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.vllm_client import ServerState, VLLMClient
from lit_vlm.rollouts.vllm_pool import VLLMPool
from lit_vlm.rollouts.vllm_requests import read_answer, request_of, sampling_options
from lit_vlm.rollouts.weight_transport import WeightTransport, to_safetensors

VERSION_BITS = 62
PROBES = 2
"""Syncs that are probed: a fresh adapter does nothing, so that the first alone would prove little."""
PROBE_TOKENS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncSettings:
    """How weights are handed over."""

    seconds: float
    """Longest wait for a server to take an adapter, or to answer a probe."""
    bucket_bytes: int
    """Size of a bucket, but for a single weight that is larger."""
    tolerance: float
    """Largest mean difference of log-probabilities of a probe, in nats."""


class WeightSync:
    """Hands the policy's weights to all servers; the first rank speaks, all take part.

    Args:
        pool: The servers.
        sampling: How the run samples.
        settings: How weights are handed over.
        transport: The way of whole weights; an adapter, which is small, goes by HTTP.
    """

    def __init__(
        self, pool: VLLMPool, sampling: SamplingSettings, settings: SyncSettings, transport: WeightTransport
    ) -> None:
        self._pool = pool
        self._transport = transport
        self._sampling = sampling
        self._settings = settings
        self._step: int | None = None
        self._probes = PROBES
        self.version = 0
        """Number of the weights that the servers have; 0 before the first sync."""
        self.seconds = 0.0
        """What the last sync took, with its probe."""

    def follow(
        self,
        policy: GeneratingPolicy,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        step: int,
        sum_over_ranks: SumOverRanks,
    ) -> None:
        """Hands over the weights unless the servers have them; see ``RolloutEngine.follow``.

        Raises:
            UserError: No server takes them, or one computes something else with them.
        """
        self.seconds = 0.0
        if step == self._step:
            return
        start = time.perf_counter()
        fault: UserError | None = None
        version = 0
        try:
            version = self._hand_over(policy)
            if is_first_rank() and self._probes and len(prompts):
                self._probe(policy, encoder, prompts, version)
        except UserError as error:
            fault = error
        told = torch.tensor([int(fault is not None), version], device=prompts.input_ids.device)
        failures, version = sum_over_ranks(told).tolist()
        if fault is not None:
            raise fault
        if failures:
            raise UserError("the first rank could not hand the weights to the vLLM servers; its message says why")
        if not is_first_rank():
            self._pool.forget_losses()
        self._step, self.version = step, version
        self.seconds = time.perf_counter() - start

    def _hand_over(self, policy: GeneratingPolicy) -> int:
        """Sends all weights, or the adapter; a rank that does not speak helps to put them together, and returns 0."""
        if not isinstance(policy, SharesWeights):
            raise TypeError(f"{type(policy).__name__} does not share its weights")
        rank = policy.shared_adapter_rank()
        first, fault, addresses, dtype = is_first_rank(), None, [], torch.float32
        version = secrets.randbits(VERSION_BITS) + 1 if first else 0
        try:
            if first:
                states = self._pool.states()
                check_states(states, rank)
                addresses, dtype = list(states), getattr(torch, next(iter(states.values())).dtype)
                if rank is None:
                    self._transport.begin(states)
        except UserError as error:
            fault = error
        for bucket in policy.weight_buckets(dtype, self._settings.bucket_bytes, keep=first):
            # After a fault the rest is still put together, since other ranks wait for this one.
            if fault is None:
                try:
                    if rank is None:
                        self._transport.send(bucket)
                    else:
                        self._send_adapter(to_safetensors(bucket), version, addresses)
                except UserError as error:
                    fault = error
        if fault is not None:
            raise fault
        if first and rank is None:
            self._transport.finish(version)
        return version

    def _send_adapter(self, adapter: bytes, version: int, addresses: Sequence[str]) -> None:
        self._pool.tell(lambda client: client.send_adapter(adapter, version, self._settings.seconds), addresses)

    def _probe(self, policy: GeneratingPolicy, encoder: SampleEncoder, prompts: PromptBatch, version: int) -> None:
        """Has each server continue a prompt, and scores what it sampled with the policy.

        Raises:
            UserError: They think differently of it.
        """
        self._probes -= 1
        sample = next((sample for sample in prompts.samples if sample.images), prompts.samples[0])
        alone = encoder.encode_prompts([sample]).to(prompts.input_ids.device)
        (prompt,) = describe_prompts(encoder, alone)
        tokens = min(PROBE_TOKENS, self._sampling.max_new_tokens)
        sampling = sampling_options(self._sampling, policy) | {"max_tokens": tokens}
        request = request_of(prompt, sampling, [0], version)

        answers: dict[str, Any] = {}

        def ask(client: VLLMClient) -> None:
            answers[client.address] = client.generate(request, self._settings.seconds)

        lost = self._pool.lost
        self._pool.tell(ask, [client.address for client in self._pool.clients if client.address not in lost])
        for address, answer in answers.items():
            (sampled,) = read_answer(answer, prompt, sample, request)
            ours = given_log_probs(policy, alone, sampled.token_ids, self._sampling.temperature)
            self._compare(address, sample, ours, torch.tensor(sampled.log_probs))

    def _compare(self, address: str, sample: Sample, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        differences = (ours - theirs).abs()
        mean = float(differences.mean())
        if not mean <= self._settings.tolerance:
            raise UserError(
                f"the vLLM server at {address} does not compute what the policy does: the log-probabilities of "
                f"{len(ours)} tokens that it sampled for sample {sample.id!r} differ by {mean:.3g} nats in the mean, "
                f"{self._settings.tolerance:g} at most may be (model.engine.parity_tolerance); start it with the model "
                "that training starts from and with the same type of weights"
            )
        logger.info(
            "the vLLM server at %s and the policy differ by %.2g nats in the mean, %.2g at most, over %d tokens",
            address,
            mean,
            float(differences.max()),
            len(ours),
        )


def check_states(states: Mapping[str, ServerState], rank: int | None) -> None:
    """Refuses servers that do not take what is to be handed over.

    Raises:
        UserError: One takes no adapters, or smaller ones.
    """
    for address, state in states.items():
        if rank is not None and state.max_lora_rank < rank:
            takes = f"adapters up to rank {state.max_lora_rank}" if state.max_lora_rank else "no adapters"
            raise UserError(
                f"the vLLM server at {address} takes {takes}, and model.backbone.adapter.rank is {rank}; start it with "
                f"--max_lora_rank {rank}"
            )


@torch.no_grad()
def given_log_probs(
    policy: GeneratingPolicy, prompt: PromptBatch, token_ids: Sequence[int], temperature: float
) -> torch.Tensor:
    """Scores a completion with the policy, token by token.

    Args:
        policy: The model.
        prompt: One.
        token_ids: ``T`` tokens of the completion.
        temperature: Divides the logits; 0 counts as 1.

    Returns:
        Log-probability of each token, fp32, in nats, on the CPU, shape ``(T,)``.
    """
    found = []
    with policy.decoding():
        state = policy.prefill(prompt, 1)
        for place, token in enumerate(token_ids):
            if place:
                state.advance(torch.tensor([token_ids[place - 1]], device=prompt.input_ids.device))
            found.append((state.logits[0].float() / (temperature or 1.0)).log_softmax(-1)[token])
    return torch.stack(found).cpu()


def describe_prompts(encoder: SampleEncoder, prompts: PromptBatch) -> list[EnginePrompt]:
    """Puts prompts as servers want them.

    Raises:
        UserError: The encoder cannot.
    """
    if not isinstance(encoder, WritesEnginePrompts):
        raise UserError(
            f"{type(encoder).__name__} does not write prompts for VLLMRolloutEngine; choose HFRolloutEngine"
        )
    return encoder.engine_prompts(prompts)


def is_first_rank() -> bool:
    """Tells whether this process is the one that speaks with servers about weights."""
    is_alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return is_alone or torch.distributed.get_rank() == 0
