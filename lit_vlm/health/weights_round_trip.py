"""Is what is saved what was trained, adapter or whole weights?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_vlm.health.finding import HAVE_TOKENS, Finding, Subject
from lit_vlm.models.backbone import Backbone

CHECK = "saving and loading"
CHANGE = 0.02
"""Standard deviation of what is added to every weight that trains, so that a file of old weights would show."""
MERGED_TOLERANCE = 1e-3
MEND = (
    "the folder that training would write is not the model that was trained: check the disk, and the versions of "
    "transformers and peft; report it with the recipe"
)


@torch.no_grad()
def weights_round_trip(subject: Subject) -> Finding:
    """Changes what trains a little, saves it, loads it again, and compares log-probabilities."""
    samples = subject.scored_samples(2)
    if not samples:
        return Finding.without_object(CHECK, f"no samples {HAVE_TOKENS}")
    backbone: Backbone = subject.module.backbone
    batch = subject.encoder.encode(samples).to(subject.module.device)
    folder = subject.folder / "saved"
    with changed_weights(subject.policy):
        with subject.policy.decoding():
            expected = subject.policy.score(batch).log_probs
        subject.module.export(folder)
        loaded = saved_backbone(backbone, str(folder))
        encoder = loaded.load_encoder(subject.encoder.max_tokens)
        again = loaded.load_model(encoder, device=subject.module.device).to(subject.module.device)
        same_rows = encoder.encode(samples).to(subject.module.device)
        with again.decoding():
            found = again.score(same_rows).log_probs
    if not torch.equal(same_rows.input_ids, batch.input_ids):
        return Finding.of(CHECK, False, "the saved tokenizer or template writes other tokens", MEND)
    difference = float((found - expected).abs().max())
    merged = backbone.adapter is not None and backbone.adapter.export == "merged"
    if merged and backbone.quantisation is not None:
        return Finding.without_object(
            CHECK, "a merged export of quantised weights is rounded otherwise than in training"
        )
    what = "the merged model" if merged else "the adapter" if backbone.adapter is not None else "the model"
    allowed = (MERGED_TOLERANCE if subject.is_exact else subject.tolerance) if merged else 0.0
    told = f"{what}, saved and loaded again, gives log-probabilities that differ by {difference:.1e} at most"
    return Finding.of(CHECK, difference <= allowed, told, MEND)


def saved_backbone(backbone: Backbone, folder: str) -> Backbone:
    """Names what an export of a policy wrote into a folder."""
    if backbone.adapter is not None and backbone.adapter.export == "adapter":
        return replace(backbone, adapter=replace(backbone.adapter, load=folder))
    return replace(
        backbone, checkpoint=folder, revision=None, gguf_file=None, from_scratch=False, adapter=None, quantisation=None
    )


@contextmanager
def changed_weights(policy: Any) -> Iterator[None]:
    """Adds noise to all weights that train, and takes it away again."""
    generator = torch.Generator().manual_seed(0)
    trained: dict[str, Tensor] = {
        name: value.detach().clone() for name, value in policy.named_parameters() if value.requires_grad
    }
    parameters = dict(policy.named_parameters())
    for name in trained:
        noise = torch.randn(parameters[name].shape, generator=generator) * CHANGE
        parameters[name].data += noise.to(parameters[name])
    try:
        yield
    finally:
        for name, value in trained.items():
            parameters[name].data.copy_(value)
