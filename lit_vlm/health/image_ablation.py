"""Does the loss depend on the image, and where a policy learns from its own completions, do they?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_vlm.callbacks.vision_probes import Probe, plan_probes, read_probes
from lit_vlm.health.finding import Finding, Subject
from lit_vlm.interfaces.capabilities import SamplesRollouts
from lit_vlm.interfaces.records import Sample

LOSS_CHECK, REWARD_CHECK = "loss and image", "reward and image"
LEAST_CHANGE = 1e-5
"""Nats a token; blank pictures of the same size go through the same sums, so that nothing else changes them."""
FRAMES = 8
LOSS_MEND = (
    "the pixels do not reach the model's answer: look at 'lit-vlm data' for placeholders in the rows, and at the "
    "checkpoint's projector"
)
REWARD_MEND = (
    "the policy answers the same whatever it sees, so that no reward can teach it to look: begin with a supervised run "
    "(lit-vlm fit with an SFT recipe), or with a model that reads images"
)


def loss_ablation(subject: Subject) -> Finding:
    """Scores right completions with their image, a blank one and another sample's."""
    probes = probes_of(subject)
    if not probes:
        return Finding.without_object(LOSS_CHECK, "there are not two samples with different images and an answer")
    tokens = torch.tensor([probe.tokens for probe in probes], dtype=torch.float64)
    own, blank, other = (
        -subject.module.completion_log_probs(samples).double().cpu() / tokens for samples in _variants(probes)
    )
    told = (
        f"loss a token with the image {float(own.mean()):.4f}, with a blank one {float(blank.mean()):.4f}, with "
        f"another's {float(other.mean()):.4f} ({len(probes)} samples)"
    )
    return Finding.of(LOSS_CHECK, all(_depends(own, changed) for changed in (blank, other)), told, LOSS_MEND)


def reward_ablation(subject: Subject) -> Finding:
    """Completes prompts with their image, a blank one and another sample's, and rewards that."""
    samples_completions = isinstance(subject.module, SamplesRollouts)
    if not samples_completions:
        return Finding.without_object(REWARD_CHECK, "this method samples no completions")
    probes = probes_of(subject)
    if not probes:
        return Finding.without_object(REWARD_CHECK, "there are not two samples with different images and an answer")
    variants = [subject.module.complete(samples) for samples in _variants(probes)]
    means = [float(subject.module.rewards_of(completions).total.nanmean()) for completions in variants]
    texts = [[completion.text for completion in completions] for completions in variants]
    changed = sum(len({own, blank, other}) > 1 for own, blank, other in zip(*texts, strict=True))
    told = (
        f"{changed} of {len(probes)} completions change with the image; reward with the image {means[0]:.3f}, with a "
        f"blank one {means[1]:.3f}, with another's {means[2]:.3f}"
    )
    return Finding.of(REWARD_CHECK, changed > 0, told, REWARD_MEND)


def probes_of(subject: Subject) -> list[Probe]:
    """Pairs up samples that show different images."""
    plan = plan_probes(subject.samples, len(subject.samples))
    return read_probes(subject.samples, plan.cycles, subject.encoder)


def _variants(probes: Sequence[Probe]) -> list[list[Sample]]:
    return [list(samples) for samples in zip(*(probe.variants(FRAMES) for probe in probes), strict=True)]


def _depends(own: Tensor, changed: Tensor) -> bool:
    """Whether at least half of the samples notice."""
    return float(((own - changed).abs() > LEAST_CHANGE).double().mean()) >= 0.5
