"""Does a prompt that is to be continued look as it does in training?"""

from __future__ import annotations

import torch

from lit_vlm.callbacks.vision_probes import completed
from lit_vlm.health.finding import Finding, Subject

CHECK = "template of prompts"
MEND = (
    "the chat template writes another prompt for generating than in training, so that the model is asked what it was "
    "never taught: give a checkpoint whose template puts the same tokens before an answer in both"
)


def template_prefix(subject: Subject) -> Finding:
    """Compares the tokens of each prompt with the beginning of its row in training."""
    compared = 0
    for sample in subject.samples:
        whole_sample = completed(sample)
        if whole_sample is None:
            continue
        prompts = subject.encoder.encode_prompts([sample])
        prompt = prompts.input_ids[0][prompts.attention_mask[0] == 1]
        whole = subject.encoder.encode([whole_sample])
        if whole.dropped:
            continue
        row = whole.input_ids[0][whole.attention_mask[0] == 1]
        if not torch.equal(row[: len(prompt)], prompt):
            place = _first_difference(prompt.tolist(), row.tolist())
            asked, taught = (subject.encoder.decode(ids[place : place + 8].tolist()) for ids in (prompt, row))
            told = (
                f"sample {sample.id!r}: from token {place} on the prompt reads {asked!r}, the training row {taught!r}"
            )
            return Finding.of(CHECK, False, told, MEND)
        compared += 1
    if not compared:
        return Finding.without_object(CHECK, "no sample has a completion or an answer")
    return Finding.of(CHECK, True, f"{compared} prompts are the beginning of their training rows", MEND)


def _first_difference(prompt: list[int], row: list[int]) -> int:
    pairs = enumerate(zip(prompt, row, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(prompt), len(row)))
