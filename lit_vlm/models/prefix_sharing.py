"""Which models can compute a prompt once for all its completions.

Known families can where their decoder uses SDPA and every layer attends to the whole past. Models of other families
must first show, on a small part of the first batch, that both passes agree. All others repeat the prompt, and the log
says why, once.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from lit_vlm.models.completion_passes import Continuations, naive_states, shared_states
from lit_vlm.models.shared_prefix_attention import SHARED_PREFIX_ATTENTION, UnshareableAttentionError

logger = logging.getLogger(__name__)

VERIFIED_FAMILIES = frozenset(
    (
        *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_onevision", "internvl", "smolvlm", "idefics3"),
        *("qwen2", "llama"),
    )
)
VERIFIED_DECODERS = frozenset(("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen2", "llama"))
"""Model types of families and of their decoders, for which the tests show that both passes agree."""

TRIED_COMPLETIONS = 3
TRIED_TOKENS = 8
"""Size of the trial: completions of one prompt, and tokens of each."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
COARSE_TOLERANCE = 5e-2
"""Largest difference of states relative to the largest state; types of few bits round by far more."""


def reason_to_repeat(model: Any) -> str | None:
    """Says why a model cannot share prompts, as far as its configuration tells; None where nothing speaks against it.

    Args:
        model: The Hugging Face model.
    """
    configuration = model.get_decoder().config
    attention = configuration._attn_implementation
    if attention not in ("sdpa", SHARED_PREFIX_ATTENTION):
        return f"its attention is {attention}; give model.backbone.attention sdpa to share prompts"
    layers = getattr(configuration, "layer_types", None)
    other = sorted(set(layers or ()) - {"full_attention"})
    if other:
        return f"it has layers of {', '.join(other)}"
    if not layers and getattr(configuration, "sliding_window", None) is not None:
        return "it attends within a sliding window"
    return None


def is_verified(model: Any) -> bool:
    """Tells whether a model is of a family whose passes are known to agree."""
    return model.config.model_type in VERIFIED_FAMILIES and model.get_decoder().config.model_type in VERIFIED_DECODERS


def decide_sharing(policy: Any, given: Continuations) -> bool:
    """Decides whether a policy shares prompts, and logs why where it does not.

    Args:
        policy: The ``VisionLanguageModel``.
        given: What is about to be scored; a part of it serves as the trial of an unknown family.
    """
    model = policy.model
    reason = reason_to_repeat(model)
    if reason is None and not is_verified(model):
        if policy.stand_in is not None:
            reason = "ranks that hold pieces of its weights cannot each try whether it could share them"
        else:
            reason = _trial(policy, given)
    if reason is not None:
        logger.warning("%s repeats each prompt for each completion: %s", type(model).__name__, reason)
    return reason is None


@torch.no_grad()
def _trial(policy: Any, given: Continuations) -> str | None:
    """Compares both passes on a few tokens of the prompt with most completions; says what is wrong, if anything."""
    prompt = given.prompt_of.bincount().argmax()
    rows = (given.prompt_of == prompt).nonzero().squeeze(1)[:TRIED_COMPLETIONS]
    part = given.select(rows, TRIED_TOKENS)
    was_training = policy.training
    policy.eval()
    attention = policy.model.get_decoder().config._attn_implementation
    try:
        expected = naive_states(policy.model, part)
        found = shared_states(policy.model, part)
    except UnshareableAttentionError as fault:
        policy.model.get_decoder().config._attn_implementation_internal = attention
        return str(fault)
    finally:
        policy.train(was_training)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if difference <= TOLERANCE.get(expected.dtype, COARSE_TOLERANCE):
        return None
    policy.model.get_decoder().config._attn_implementation_internal = attention
    return f"the states of both passes differ by {difference:.1e} of the largest"
