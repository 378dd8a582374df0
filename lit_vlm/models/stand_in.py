"""What a rank computes in the place of media or rows that it lacks, so that ranks whose weights are cut up go together.

A pass gathers the weights of each block from all ranks. Where one rank reads an image and another reads none, or has
nothing to read at all, the latter runs a blank image, or a few tokens, through the same blocks; their share of the
loss is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_vlm.functional.replaced_media import blank_picture
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.records import MediaRef, Sample, assistant_message, user_message
from lit_vlm.models.generating import most_of_all_ranks
from lit_vlm.models.media_features import encode_pixels
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.prompt_rows import PIXELS

if TYPE_CHECKING:
    from lit_vlm.models.vision_language_model import VisionLanguageModel

LONGEST = 2**20
"""Tokens that the stand-in may have, whatever the limit of the run's own rows."""


@dataclass(frozen=True)
class StandIn:
    """Rows that mean nothing."""

    text: PromptBatch
    """A row of a few tokens, without media."""
    media: PromptBatch | None
    """A row with a small blank image; None where the model reads text only."""

    @classmethod
    def of_encoder(cls, encoder: ProcessorEncoder) -> StandIn:
        """Encodes them.

        Args:
            encoder: That of the model.
        """
        roomy = ProcessorEncoder(encoder.processor, max_tokens=LONGEST)
        blank = (blank_picture(32, 32),)
        text = roomy.encode([_sample()])
        return cls(text, roomy.encode([_sample(blank)]) if encoder.media_token_ids else None)


def in_step(policy: VisionLanguageModel, encodings: int, *, has_rows: bool) -> Tensor | float:
    """Does what other ranks do and this one does not, at the beginning of a pass; all ranks must ask together.

    Args:
        policy: The model.
        encodings: How often the pass of this rank runs the vision tower.
        has_rows: Whether this rank has rows to read.

    Returns:
        A zero that must be added to what the pass computes, as it carries the graph; just 0 where ranks need not go
        together.
    """
    stand_in = policy.stand_in
    if stand_in is None or policy.is_gathered:
        return 0.0
    device = next(policy.parameters()).device
    zeros: list[Tensor] = []
    # A step of nothing on all ranks must reach all that trains too, as it does where weights are whole.
    reaches_vision = torch.is_grad_enabled() and bool({"vision", "projector"} & policy.trained_parts)
    claimed = max(encodings, int(reaches_vision and not has_rows and stand_in.media is not None))
    for _ in range(most_of_all_ranks(claimed, device) - encodings):
        if stand_in.media is None:
            raise RuntimeError("another rank reads media with a model that reads none")
        zeros.extend(_encoded(policy.model, stand_in.media.to(device)))
    if not has_rows:
        zeros.append(policy.hidden_states(stand_in.text.to(device)))
    if torch.is_grad_enabled():
        # All ranks must have gradients of the same weights; those outside the blocks lie open in a pass.
        zeros.extend(value for value in _outside_blocks(policy) if value.requires_grad)
    return 0.0 * torch.stack([value.sum().float() for value in zeros]).sum() if zeros else 0.0


def _encoded(model: Any, prompts: PromptBatch) -> Iterator[Tensor]:
    for kind, pixels in PIXELS.items():
        if pixels in prompts.visual:
            output = encode_pixels(model, kind, prompts)
            pooled = output.pooler_output
            yield from (pooled,) if isinstance(pooled, Tensor) else tuple(pooled)


def _outside_blocks(policy: nn.Module) -> Iterator[nn.Parameter]:
    return (value for value in policy.parameters() if not isinstance(value, DTensor))


def _sample(images: tuple[MediaRef, ...] = ()) -> Sample:
    return Sample("stand-in", (user_message("0", images=len(images)), assistant_message("0")), images=images)
