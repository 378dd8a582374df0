"""Writes requests for completions, and reads the answers."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import EnginePrompt, GeneratingPolicy
from lit_vlm.interfaces.records import Sample
from lit_vlm.rollouts.sampling_settings import SamplingSettings

SEED_BITS = 53
"""Of a seed that JSON keeps whole in any language."""


@dataclass(frozen=True)
class SampledTokens:
    """A completion as a server sampled it."""

    token_ids: list[int]
    log_probs: list[float]
    """Of each token, at the sampling temperature, before top-p, top-k and the like cut anything off."""
    is_truncated: bool
    """Whether it met the length limit."""


def sampling_options(settings: SamplingSettings, policy: GeneratingPolicy) -> dict[str, Any]:
    """Says how to sample.

    Args:
        settings: The run's.
        policy: Knows which tokens end a completion, and which none may hold.
    """
    return {
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k or -1,
        "min_p": settings.min_p,
        "repetition_penalty": settings.repetition_penalty,
        "stop": list(settings.stop_strings),
        "end_token_ids": sorted(policy.end_token_ids),
        "never": sorted(policy.unsampled_token_ids),
    }


def request_of(prompt: EnginePrompt, sampling: Mapping[str, Any], seeds: Sequence[int], version: int) -> dict[str, Any]:
    """Asks for completions of a prompt, one a seed; images are sent once for all of them.

    Args:
        prompt: With its images.
        sampling: See ``sampling_options``.
        seeds: Whole numbers.
        version: Number of the weights that are to sample.
    """
    return {
        "version": version,
        "token_ids": list(prompt.token_ids),
        "images": [base64.b64encode(image).decode() for image in prompt.images],
        "processor": dict(prompt.processor),
        "sampling": dict(sampling),
        "seeds": [seed & ((1 << SEED_BITS) - 1) for seed in seeds],
    }


def read_answer(
    answer: Mapping[str, Any], prompt: EnginePrompt, sample: Sample, request: Mapping[str, Any]
) -> list[SampledTokens]:
    """Reads the completions of a prompt.

    Args:
        answer: What a server sent.
        prompt: As the policy reads it.
        sample: Whose prompt it is.
        request: What was asked for.

    Raises:
        UserError: The server read another prompt, or its answer is not whole.
    """
    check_prompt(answer.get("token_ids", ()), prompt, sample)
    completions = [
        SampledTokens(list(one["token_ids"]), list(one["log_probs"]), one["finish"] == "length")
        for one in answer["completions"]
    ]
    if len(completions) != len(request["seeds"]):
        raise _not_whole(sample, f"it has {len(completions)} completions, asked for were {len(request['seeds'])}")
    for completion in completions:
        _check(completion, sample, request["sampling"])
    return completions


def check_prompt(token_ids: Sequence[int], prompt: EnginePrompt, sample: Sample) -> None:
    """Compares the prompt that a server read with the one that the policy reads.

    Raises:
        UserError: They differ; the message names the sample.
    """
    if tuple(token_ids) == prompt.whole:
        return
    where = next(
        (place for place, pair in enumerate(zip(token_ids, prompt.whole, strict=False)) if pair[0] != pair[1]),
        min(len(token_ids), len(prompt.whole)),
    )
    raise UserError(
        f"sample {sample.id!r}: the vLLM server reads a prompt of {len(token_ids)} tokens, the policy one of "
        f"{len(prompt.whole)}, different from token {where} on, so that images would stand for other numbers of "
        "tokens; start the server with the model that training starts from, and leave its image processor as it is"
    )


def _check(completion: SampledTokens, sample: Sample, sampling: Mapping[str, Any]) -> None:
    tokens: Collection[int] = completion.token_ids
    if not tokens or len(tokens) > sampling["max_tokens"]:
        raise _not_whole(sample, f"a completion has {len(tokens)} tokens, wanted are 1 to {sampling['max_tokens']}")
    if len(completion.log_probs) != len(tokens) or not all(map(math.isfinite, completion.log_probs)):
        raise _not_whole(sample, "a completion's log-probabilities are too few, or not finite")
    if held := set(sampling["never"]).intersection(tokens):
        raise _not_whole(sample, f"a completion holds the token {min(held)}, which stands for media or padding")


def _not_whole(sample: Sample, reason: str) -> UserError:
    return UserError(f"the vLLM server's answer for sample {sample.id!r} is of no use: {reason}")
