"""Is a sample scored alike alone, in a batch of others, and behind a prompt that completions share?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.health.finding import HAVE_TOKENS, Finding, Subject
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.records import Sample

CHECK = "samples apart in a batch"
SAMPLES = 4
MEND = (
    "tokens of one sample reach another's: give model.backbone.attention sdpa, for rollouts model.update.prefix naive, "
    "or another version of transformers"
)


@dataclass(frozen=True)
class _Known:
    """A sample with its tokens."""

    sample: Sample
    completion: Tensor
    """Token ids behind the prompt, shape ``(T,)``."""
    log_probs: Tensor
    """Of its labels, alone, shape ``(N,)``."""


@torch.no_grad()
def batch_leak(subject: Subject) -> Finding:
    """Compares log-probabilities of the same tokens in batches of one and of several."""
    samples = subject.scored_samples(SAMPLES)
    if len(samples) < 2:
        return Finding.without_object(CHECK, f"fewer than two samples {HAVE_TOKENS}")
    with subject.policy.decoding():
        known = [_alone(subject, sample) for sample in samples]
        together = _by_row(subject, subject.encoder.encode(samples))
        batched = max(_difference(found, one.log_probs) for found, one in zip(together, known, strict=True))
        shared = _shared_difference(subject, known)
    told = (
        f"log-probabilities of {len(samples)} samples differ by {batched:.1e} nats a token between batches of one and "
        f"of {len(samples)}, by {shared:.1e} where completions share a prompt (allowed: {subject.tolerance:.0e})"
    )
    return Finding.of(CHECK, max(batched, shared) <= subject.tolerance, told, MEND)


def _alone(subject: Subject, sample: Sample) -> _Known:
    batch = subject.encoder.encode([sample])
    prompt = subject.encoder.encode_prompts([sample])
    length = int(prompt.attention_mask.sum())
    return _Known(sample, batch.input_ids[0, length:], _by_row(subject, batch)[0])


def _by_row(subject: Subject, batch: PromptBatch) -> list[Tensor]:
    scores = subject.policy.score(batch.to(subject.module.device))
    return [scores.log_probs[scores.rows == row] for row in range(len(batch))]


def _shared_difference(subject: Subject, known: Sequence[_Known]) -> float:
    """Scores each completion behind two prompts, in one pass that shares them, and each pair by itself."""
    completions = [one.completion for one in known if len(one.completion)]
    if len(completions) < len(known):
        return 0.0  # a conversation of several turns has no single completion
    count = len(known)
    device = subject.module.device
    prompts = subject.encoder.encode_prompts([one.sample for one in known]).to(device)
    pairs = [(place, (place + turn) % count) for place in range(count) for turn in (0, 1)]
    ids = torch.nn.utils.rnn.pad_sequence([completions[other] for _, other in pairs], batch_first=True).to(device)
    lengths = torch.tensor([len(completions[other]) for _, other in pairs], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    owners = torch.tensor([place for place, _ in pairs], device=device)
    together = subject.policy.score_rollouts(prompts, ids, mask, owners, prefix="shared").log_probs
    worst = 0.0
    for row, (place, other) in enumerate(pairs):
        prompt = subject.encoder.encode_prompts([known[place].sample]).to(device)
        own = completions[other][None].to(device)
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        alone = subject.policy.score_rollouts(prompt, own, torch.ones_like(own), zero, prefix="naive").log_probs[0]
        worst = max(worst, _difference(together[row, : len(alone)], alone))
    return worst


def _difference(found: Tensor, expected: Tensor) -> float:
    """Mean difference of tokens; infinite where they are not as many."""
    if found.shape != expected.shape or not len(found):
        return float("inf")
    return float((found - expected).abs().mean())
