"""Can the first records be read, do they fit, and does the verifier take their own answers for right?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from lit_vlm.callbacks.vision_probes import completed
from lit_vlm.health.finding import Finding, Subject
from lit_vlm.interfaces.capabilities import SamplesRollouts
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, Completion, Sample

RECORDS_CHECK, LENGTH_CHECK, ANSWERS_CHECK, REWARD_CHECK = "records", "length of rows", "answers", "reward of answers"
RECORDS_MEND = "mend or remove them, or set data.bad_samples skip; 'lit-vlm data' lists all"
LENGTH_MEND = "raise model.max_tokens, or lower model.backbone.max_pixels; what lies beyond is not learnt"
ANSWERS_MEND = (
    "the verifier would call right completions wrong: see that the data's answers have the form and place that the "
    "completions have"
)
REWARD_MEND = "a right completion must earn more than an empty one: look at model.reward and the answers' form"


def read_samples(prepared: Any, most: int) -> tuple[list[Sample], list[BadSample]]:
    """Reads the first samples of a split, and keeps apart those that cannot be read."""
    samples: list[Sample] = []
    bad: list[BadSample] = []
    for index in range(min(most, len(prepared))):
        try:
            samples.append(prepared[index])
        except BadSampleError as fault:
            bad.append(BadSample(fault.origin, fault.reason))
    return samples, bad


def readable_records(samples: Sequence[Sample], bad: Sequence[BadSample]) -> Finding:
    """Tells of records that could not be read."""
    if not samples and not bad:
        return Finding.of(RECORDS_CHECK, False, "the training split has no samples", "check data")
    told = f"{len(samples)} of the first {len(samples) + len(bad)} training records can be read"
    if bad:
        told += f"; {bad[0].origin}: {bad[0].reason}"
    return Finding.of(RECORDS_CHECK, not bad, told, RECORDS_MEND)


def whole_rows(subject: Subject) -> Finding:
    """Counts samples that would be cut or left out for their length, or cannot be encoded."""
    on_policy = isinstance(subject.module, SamplesRollouts)
    most, long, first = subject.encoder.max_tokens, 0, ""
    longest = 0
    for sample in subject.samples:
        try:
            count = subject.encoder.count_prompt_tokens(sample) if on_policy else subject.encoder.count_tokens(sample)
        except BadSampleError as fault:
            return Finding.of(LENGTH_CHECK, False, f"{fault.origin}: {fault.reason}", RECORDS_MEND)
        longest = max(longest, count.total)
        if count.total > most:
            long += 1
            first = first or sample.id
    told = f"the longest of {len(subject.samples)} rows has {longest:,} tokens, of {most:,} that fit"
    if long:
        told += f"; {long} are too long, the first {first!r}"
    return Finding.of(LENGTH_CHECK, not long, told, LENGTH_MEND)


def accepted_answers(subject: Subject) -> Finding:
    """Lets the verifier judge the completions of the data themselves."""
    judged = [made for sample in subject.samples if (made := _answered(sample)) is not None]
    verdicts = [(made, subject.module.verdict_of(made, made.messages[-1].text)) for made in judged]
    verdicts = [(made, verdict) for made, verdict in verdicts if verdict is not None]
    if not verdicts:
        return Finding.without_object(ANSWERS_CHECK, "no sample has an answer that can be verified")
    wrong = [(made, verdict) for made, verdict in verdicts if not verdict.correct]
    told = f"the verifier accepts the data's own answer of {len(verdicts) - len(wrong)} of {len(verdicts)} samples"
    if wrong:
        sample, verdict = wrong[0]
        told += f"; sample {sample.id!r}: found {verdict.parsed!r}, wanted {sample.answer.value!r}"  # type: ignore[union-attr]
    return Finding.of(ANSWERS_CHECK, not wrong, told, ANSWERS_MEND)


def rewarded_answers(subject: Subject) -> Finding:
    """Compares the reward of the data's own completions with that of empty ones."""
    module = subject.module
    judged = [made for sample in subject.samples if (made := _answered(sample)) is not None]
    if getattr(module, "reward", None) is None or not judged:
        reason = "there is no model.reward" if judged else "no sample has a completion and an answer"
        return Finding.without_object(REWARD_CHECK, reason)
    right = [_completion(module, made, made.messages[-1].text) for made in judged]
    empty = [replace(one, text="", verdict=module.verdict_of(one.sample, "")) for one in right]
    try:
        earned, nothing = module.rewards_of(right).total, module.rewards_of(empty).total
    except UserError as fault:
        return Finding.of(REWARD_CHECK, False, str(fault), REWARD_MEND)
    if bool(earned.isnan().all()):
        return Finding.of(REWARD_CHECK, False, "the reward applies to none of the samples", REWARD_MEND)
    mean, least = float(torch.nanmean(earned)), float(torch.nanmean(nothing))
    told = f"the data's own completions earn {mean:.3f} on average, empty ones {least:.3f} ({len(right)} samples)"
    return Finding.of(REWARD_CHECK, mean > least, told, REWARD_MEND)


def _answered(sample: Sample) -> Sample | None:
    """The sample with its right completion as last turn; None where it has none that can be judged."""
    made = completed(sample) if sample.answer is not None else None
    return made if made is not None and made.messages[-1].role == "assistant" else None


def _completion(module: Any, sample: Sample, text: str) -> Completion:
    prompt = module.encoder.describe_prompt(sample)
    tokens = len(module.encoder.tokenise(text))
    return Completion(sample, prompt, text, module.verdict_of(sample, text), token_count=tokens)
