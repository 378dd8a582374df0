"""Does each placeholder of an image stand for one row of features, and is each image there?"""

from __future__ import annotations

import torch

from lit_vlm.health.finding import Finding, Subject

CHECK = "images and placeholders"
MEND = (
    "the processor does not belong to this model, or drops images: give model.backbone.checkpoint a folder with its "
    "own processor, and look at the samples with 'lit-vlm data'"
)


@torch.no_grad()
def feature_counts(subject: Subject) -> Finding:
    """Compares the placeholder tokens of each prompt with the features of the vision tower and with the count ahead."""
    shown = [sample for sample in subject.samples if sample.images or sample.videos]
    if not shown:
        return Finding.without_object(CHECK, "none of the samples has an image or a video")
    media_ids = torch.tensor(subject.encoder.media_token_ids)
    tokens = 0
    for sample in shown:
        prompts = subject.encoder.encode_prompts([sample]).to(subject.module.device)
        placeholders = int(torch.isin(prompts.input_ids.cpu(), media_ids).sum())
        expected = subject.encoder.count_prompt_tokens(sample).media
        try:
            media = subject.policy.encode_media(prompts)
        except ValueError as fault:
            return Finding.of(CHECK, False, f"sample {sample.id!r}: {fault}", MEND)
        features = placeholders
        if media is not None:
            features = sum(len(rows.features) for rows in media.kinds.values())
        if not placeholders == expected == features or not placeholders:
            told = (
                f"sample {sample.id!r} has {len(sample.images)} images and {len(sample.videos)} videos: "
                f"{placeholders} placeholder tokens, {features} features, {expected} tokens by their size"
            )
            return Finding.of(CHECK, False, told, MEND)
        tokens += placeholders
    told = f"{tokens:,} placeholders of {len(shown)} samples have a feature each"
    return Finding.of(CHECK, True, told, MEND)
