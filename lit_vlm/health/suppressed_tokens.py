"""Can a completion end, and is it kept from holding placeholders of images?"""

from __future__ import annotations

import torch

from lit_vlm.callbacks.vision_probes import completed
from lit_vlm.health.finding import Finding, Subject
from lit_vlm.interfaces.records import IGNORED_LABEL

CHECK = "special tokens"
PLACEHOLDER_MEND = (
    "a sampled placeholder would be taken for an image in the next pass: the model's configuration and its tokenizer "
    "disagree; give model.backbone.checkpoint a folder where both belong together"
)
END_MEND = (
    "completions would go on until the length limit: add the token that ends the assistant's turn to eos_token_id in "
    "the checkpoint's generation_config.json"
)


def suppressed_tokens(subject: Subject) -> Finding:
    """Compares the tokens that are never sampled, and those that end a completion, with what rows hold."""
    policy = subject.policy
    held = set(subject.encoder.media_token_ids)
    missing = held - set(policy.unsampled_token_ids)
    if missing:
        return Finding.of(CHECK, False, f"placeholders of media may be sampled: {sorted(missing)}", PLACEHOLDER_MEND)
    ends = set(policy.end_token_ids) - set(policy.unsampled_token_ids)
    if not ends:
        return Finding.of(CHECK, False, "no token that may be sampled ends a completion", END_MEND)
    checked = 0
    for sample in subject.samples:
        made = completed(sample)
        if made is None:
            continue
        labels = subject.encoder.encode([made]).labels[0]
        learnt = labels[labels != IGNORED_LABEL]
        if not len(learnt):
            continue
        checked += 1
        # Templates may put a line break behind the end of a turn.
        if not bool(torch.isin(learnt[-2:], torch.tensor(sorted(ends))).any()):
            told = f"sample {sample.id!r} ends with tokens {learnt[-2:].tolist()}; {sorted(ends)} end completions"
            return Finding.of(CHECK, False, told, END_MEND)
    told = f"{len(policy.unsampled_token_ids)} tokens are never sampled; the ends of {checked} samples end completions"
    return Finding.of(CHECK, True, told, END_MEND)
