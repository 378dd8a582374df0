"""Writes completions for ``predict``: several of each prompt, with all that is known of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lit_vlm import __version__
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.policy_roles import GeneratingPolicy
from lit_vlm.interfaces.records import Answer, Completion, Sample, Verdict
from lit_vlm.interfaces.roles import Reward, SampleEncoder
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.generating import is_sharded
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.template_fingerprint import template_fingerprint
from lit_vlm.models.vision_language_model import GenerationSettings, VisionLanguageModel
from lit_vlm.models.weight_fingerprint import weight_fingerprint
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings

VerdictOf = Callable[[Sample, str], Verdict | None]
"""Says whether the text of a sample's completion is right; None where there is nothing to compare it with."""


def prediction_seed(run_seed: int, sample_id: str) -> int:
    """Derives the seed of a sample's completions, which depends on nothing but the run's seed and the sample."""
    return stream_seed(run_seed, "predict", sample_id)


def prediction_engine(settings: GenerationSettings) -> HFRolloutEngine:
    """Makes what samples completions; verdicts are left to ``predict_completions``."""
    options = asdict(settings)
    del options["completions"]
    return HFRolloutEngine(SamplingSettings(**options), judge=_undecided)


def predict_completions(
    policy: GeneratingPolicy,
    encoder: SampleEncoder,
    prompts: PromptBatch,
    settings: GenerationSettings,
    *,
    run_seed: int,
    verdict_of: VerdictOf,
    reward: Reward | None,
) -> list[Completion]:
    """Samples completions, judges and scores them.

    But for the rounding of sums, a completion depends on its sample, its index and the run's seed alone: not on the
    batch, the number of ranks, or what was done before.

    Args:
        policy: What writes.
        encoder: Turns tokens into text.
        prompts: ``P`` left-padded prompts.
        settings: How to decode, and how many completions of each prompt.
        run_seed: Seed of the run.
        verdict_of: Says whether a completion is right.
        reward: Scores completions; None scores nothing.

    Returns:
        ``P * settings.completions`` of them, prompt by prompt.

    Raises:
        UserError: A prompt leaves too little of the model's context.
    """
    count = settings.completions
    seeds = [prediction_seed(run_seed, sample.id) for sample in prompts.samples]
    rollouts = prediction_engine(settings)(policy, encoder, prompts, count, seeds)
    token_ids, log_probs = rollouts.token_ids.tolist(), rollouts.log_probs.tolist()
    entropies = None if rollouts.entropies is None else rollouts.entropies.tolist()
    truncated = rollouts.is_truncated.tolist()
    completions = []
    for row, completion in enumerate(rollouts.completions):
        length = completion.token_count
        completions.append(
            replace(
                completion,
                verdict=verdict_of(completion.sample, completion.text),
                index=row % count,
                token_ids=tuple(token_ids[row][:length]),
                log_probs=tuple(log_probs[row][:length]),
                entropies=() if entropies is None else tuple(entropies[row][:length]),
                finish_reason="length" if truncated[row] else "stop",
                seed=seeds[row // count],
            )
        )
    return completions if reward is None else with_rewards(completions, reward)


def with_rewards(completions: Sequence[Completion], reward: Reward) -> list[Completion]:
    """Adds the scores that apply to each completion, by name, ``total`` among them."""
    scores = reward(completions)
    columns = {**scores.details, "total": scores.total}
    rows: list[dict[str, float]] = [
        {name: value for name, value in zip(columns, values, strict=True) if not math.isnan(value)}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    return [replace(completion, rewards=row) for completion, row in zip(completions, rows, strict=True)]


def ledger_header(
    policy: VisionLanguageModel,
    encoder: ProcessorEncoder,
    backbone: Backbone,
    settings: GenerationSettings,
    run_seed: int,
) -> LedgerHeader:
    """Tells what holds for all completions; ``config_hash`` and ``split`` stay empty.

    The model's hash is of its weights as they are; where ranks hold pieces of them, of where they come from.
    """
    sampling = asdict(settings)
    del sampling["completions"]
    if is_sharded(policy):
        model_hash = hashlib.blake2b(repr(backbone).encode(), digest_size=16).hexdigest()
    else:
        model_hash = weight_fingerprint(policy.model, with_adapter=True)
    return LedgerHeader(
        model=Path(backbone.checkpoint).name,
        model_hash=model_hash,
        config_hash="",
        template_hash=template_fingerprint(encoder.processor),
        completions=settings.completions,
        seed=run_seed,
        sampling=sampling,
        version=__version__,
    )


def _undecided(text: str, answer: Answer) -> Verdict:
    """Says nothing, where the verdict is found elsewhere."""
    return Verdict(correct=False, parsed=None, formatted=False)
