"""Do the log-probabilities that an engine tells agree with those of a training pass?"""

from __future__ import annotations

import torch

from lit_vlm.health.finding import Finding, Subject
from lit_vlm.interfaces.capabilities import SamplesRollouts

CHECK = "sampler and trainer"
PROMPTS, GROUP = 2, 4
MEND = (
    "the engine does not sample from the policy that is trained: see that it has the same weights, adapter, chat "
    "template and precision; a server of its own needs its weights synchronised"
)
OWN_WEIGHTS_TOLERANCE = 5e-2
"""Nats a token, for an engine that computes with kernels of its own."""


@torch.no_grad()
def rollout_parity(subject: Subject) -> Finding:
    """Samples completions of the first prompts, and scores them as a training pass does."""
    module, policy = subject.module, subject.policy
    engine = getattr(module, "engine", None)
    if engine is None or not isinstance(module, SamplesRollouts):
        return Finding.without_object(CHECK, "this method samples no completions")
    engine.check(policy, subject.encoder)
    prompts = subject.encoder.encode_prompts(subject.samples[:PROMPTS]).to(subject.module.device)
    group = min(module.group_size, GROUP)
    seeds = list(range(len(prompts)))
    with policy.decoding():
        rollouts = engine(policy, subject.encoder, prompts, group, seeds, media=policy.encode_media(prompts))
        found = policy.score_rollouts(
            rollouts.prompts, rollouts.token_ids, rollouts.mask, rollouts.prompt_of, temperature=engine.temperature
        ).log_probs
    counted = rollouts.mask != 0
    if not bool(counted.any()):
        return Finding.of(CHECK, False, "the engine sampled no token", MEND)
    difference = (found - rollouts.log_probs)[counted].abs()
    tolerance = subject.tolerance
    if getattr(engine, "has_own_weights", False):
        tolerance = max(tolerance, OWN_WEIGHTS_TOLERANCE)
    told = (
        f"log-probabilities of {int(counted.sum()):,} sampled tokens differ by {float(difference.mean()):.1e} nats on "
        f"average, {float(difference.max()):.1e} at most (allowed on average: {tolerance:.0e})"
    )
    return Finding.of(CHECK, float(difference.mean()) <= tolerance, told, MEND)
