"""A vision-language model with a linear head that judges sub-sentences.

Legend: ``N`` sub-sentences of a batch, ``H`` hidden width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import set_seed

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import IGNORED_LABEL
from lit_vlm.interfaces.segments import SEGMENT_CLASSES, Hallucination
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.media_features import count_encodings
from lit_vlm.models.parts import Part
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.stand_in import in_step
from lit_vlm.models.tuning import head_is_tied
from lit_vlm.models.vision_language_model import VisionLanguageModel

HEAD = "segment_head.safetensors"
"""File of the head's weights."""
DESCRIPTION = "segment_reward.json"
"""File that says what a saved model judges, and how to load it."""


@dataclass
class SegmentLogits:
    """What a model thinks of the sub-sentences of a batch, row by row."""

    logits: Tensor
    """Scores of ``SEGMENT_CLASSES``, fp32, shape ``(N, 3)``."""
    classes: Tensor
    """The labels, shape ``(N,)``."""
    rows: Tensor
    """Row of the batch each belongs to, shape ``(N,)``."""


class SegmentClassifier(VisionLanguageModel):
    """Judges each sub-sentence from the last hidden state of the token that ends it; makes no logits of words.

    The language head is frozen, unless its weights are the input embeddings.

    Args:
        policy: The model to judge with, which is taken over.
        seed: Seed of the head's first weights.

    Source:
        Jing and Du, FGAIF (2024); ``RLHF/models/fine_reward_model.py`` of the authors (confirmed-in-code). We differ:
        no token is inserted behind a sub-sentence, so that a policy's tokens are judged as they were sampled.
    """

    def __init__(self, policy: VisionLanguageModel, seed: int = 0) -> None:
        if not head_is_tied(policy.model):
            policy.model.get_output_embeddings().requires_grad_(False)
        super().__init__(
            policy.model,
            media_token_ids=policy.media_token_ids,
            padding_id=policy.padding_id,
            parts=policy.parts,
        )
        width = int(policy.model.config.get_text_config().hidden_size)
        with torch.random.fork_rng():
            set_seed(seed)
            self.segment_head = nn.Linear(width, len(SEGMENT_CLASSES))
        self.segment_head.to(policy.model.device)

    passes = (*VisionLanguageModel.passes, "judge")

    def part_of(self, name: str) -> Part:
        """Tells which part a parameter belongs to; the new head counts as the head."""
        return "head" if name.startswith("segment_head.") else super().part_of(name)

    def judge(self, batch: PromptBatch) -> SegmentLogits:
        """Judges the sub-sentences that ``batch.labels`` mark.

        Args:
            batch: Right-padded rows, labelled with classes by ``segment_encoding.label_segments``.

        Raises:
            UserError: The batch has no labels.
        """
        if batch.labels is None:
            raise UserError("this batch has no labels; encode samples with their responses")
        tie = in_step(self, count_encodings(batch), has_rows=len(batch) > 0)
        rows, columns = (batch.labels != IGNORED_LABEL).nonzero(as_tuple=True)
        hidden = self.own_states(batch)
        logits = self.segment_head(hidden[rows, columns].to(self.segment_head.weight.dtype)).float() + tie
        if self.training:
            logits = logits + self.touch_unused()
        if not len(rows):
            # An empty selection has no graph of its own; the step must still reach every parameter.
            logits = logits + 0.0 * hidden.sum()
        return SegmentLogits(logits, batch.labels[rows, columns], rows)


def save_segment_classifier(
    classifier: SegmentClassifier, backbone: Backbone, kind: Hallucination, encoder: ProcessorEncoder, folder: Path
) -> None:
    """Writes a classifier as a folder: backbone or adapter, processor, head and description; nothing is pickled.

    Args:
        classifier: The model.
        backbone: What it was loaded by.
        kind: What it judges.
        encoder: Its encoder.
        folder: Where to write; made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone.save(classifier, folder)
    encoder.processor.save_pretrained(folder)
    is_adapter = backbone.adapter is not None and backbone.adapter.export == "adapter"
    save_segment_head(classifier.segment_head.state_dict(), backbone, kind, folder, is_adapter=is_adapter)


def save_segment_head(
    head: Mapping[str, Tensor], backbone: Backbone, kind: Hallucination, folder: Path, *, is_adapter: bool
) -> None:
    """Writes the head and what it judges beside a backbone or an adapter.

    Args:
        head: The head's weights.
        backbone: What the model was loaded by.
        kind: What it judges.
        folder: Where to write.
        is_adapter: Whether an adapter lies there, which needs its base.
    """
    state = {name: value.detach().contiguous().cpu() for name, value in head.items()}
    save_file(state, folder / HEAD)
    description = {
        "hallucination": kind,
        "checkpoint": backbone.checkpoint if is_adapter else None,
        "revision": backbone.revision if is_adapter else None,
        "min_pixels": backbone.min_pixels,
        "max_pixels": backbone.max_pixels,
        "max_video_frames": backbone.max_video_frames,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
