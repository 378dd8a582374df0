"""Features of images and videos, made once and handed to several passes over the same prompts.

Whoever keeps features must know when they are stale: with a frozen vision tower and projector, never; while one of
them trains, at the next optimizer step, and a pass that is to train them needs features with a graph of its own.

Legend: ``P`` prompts, ``M`` feature rows (one for each placeholder token), ``H`` hidden width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.models.prompt_rows import PIXELS, placeholder_rows


@dataclass(frozen=True)
class FeatureRows:
    """Features of all images, or of all videos, of a batch."""

    features: Tensor
    """In the order of the placeholders, shape ``(M, H)``."""
    deeper: tuple[Tensor, ...]
    """What is added within the decoder, a layer each, of the same shape; most families have none."""
    prompts: Tensor
    """Prompt that each belongs to, shape ``(M,)``."""
    form: Literal["sequence", "batched", "flat"]
    """How the family wants its features: a sequence of tensors, or a tensor with or without an axis for media."""
    splits_deeper: bool = False
    """Whether it wants a sequence of tensors for each layer of ``deeper`` too."""

    def select(self, rows: Tensor) -> FeatureRows:
        """Takes the features of some prompts, in their order; a prompt may come several times."""
        places = [(self.prompts == row).nonzero().squeeze(1) for row in rows]
        index = torch.cat(places) if places else self.prompts.new_empty(0)
        owners = [torch.full_like(place, number) for number, place in enumerate(places)]
        return replace(
            self,
            features=self.features[index],
            deeper=tuple(tensor[index] for tensor in self.deeper),
            prompts=torch.cat(owners) if owners else index,
        )

    def output(self) -> Any:
        """Puts the features into the form that the family's encoder returns."""
        features: Any = self.features
        if self.form == "sequence":
            features = (self.features,)
        elif self.form == "batched":
            features = self.features.unsqueeze(0)
        output = BaseModelOutputWithPooling(pooler_output=features)
        if self.deeper:
            output["deepstack_features"] = [(tensor,) if self.splits_deeper else tensor for tensor in self.deeper]
        return output


@dataclass(frozen=True)
class MediaFeatures:
    """Features of the media of some prompts, by kind; no kind at all where the prompts are text."""

    kinds: Mapping[str, FeatureRows]
    """``image`` and ``video``, those that occur."""

    def select(self, rows: Tensor) -> MediaFeatures:
        """Takes the features of some prompts, in their order.

        Args:
            rows: Prompts by index, shape ``(N,)``; one may come several times, as in a batch that repeats prompts.
        """
        selected = {kind: features.select(rows) for kind, features in self.kinds.items()}
        return MediaFeatures({kind: features for kind, features in selected.items() if len(features.features)})

    def inputs(self) -> dict[str, Any]:
        """The keyword arguments of the model's forward, in place of pixels."""
        # A new dictionary at each call: models write into it.
        outputs = {kind: features.output() for kind, features in self.kinds.items()}
        return {"mm_encoder_outputs": outputs} if outputs else {}

    @property
    def has_graph(self) -> bool:
        """Whether gradients reach the modules that made the features."""
        return any(features.features.requires_grad for features in self.kinds.values())


def takes_features(model: Any) -> bool:
    """Tells whether a model takes features in place of pixels; families of transformers do from 5.18 on."""
    return "mm_encoder_outputs" in inspect.signature(model.base_model.forward).parameters


def encode_media(model: Any, prompts: PromptBatch) -> MediaFeatures | None:
    """Runs vision tower and projector on the media of a batch.

    Args:
        model: The Hugging Face model.
        prompts: ``P`` prompts with their media, padded on either side.

    Returns:
        Features with a graph where the tower or projector trains and gradients are on; None where the model takes
        none, so that each pass must encode its own pixels.

    Raises:
        ValueError: There are more or fewer features than placeholder tokens.
    """
    if not any(name in prompts.visual for name in PIXELS.values()):
        return MediaFeatures({})
    if not takes_features(model):
        return None
    kinds = {}
    for kind, pixels in PIXELS.items():
        if pixels in prompts.visual:
            owners = placeholder_rows(model.config, kind, prompts.input_ids)
            kinds[kind] = _feature_rows(kind, encode_pixels(model, kind, prompts), owners)
    return MediaFeatures(kinds)


def encode_pixels(model: Any, kind: str, prompts: PromptBatch) -> Any:
    """Runs vision tower and projector on one kind of media, and returns what the family's encoder does.

    Args:
        model: The Hugging Face model.
        kind: ``image`` or ``video``.
        prompts: With media of that kind.
    """
    encode = getattr(model.base_model, f"get_{kind}_features")
    wanted = inspect.signature(encode).parameters
    media = {name: tensor for name, tensor in prompts.visual.items() if name in wanted}
    return encode(**media, return_dict=True)


def count_encodings(prompts: PromptBatch) -> int:
    """Counts how often a pass over pixels runs the vision tower: once for each kind of media."""
    return sum(pixels in prompts.visual for pixels in PIXELS.values())


def _feature_rows(kind: str, output: Any, owners: Tensor) -> FeatureRows:
    pooled = output.pooler_output
    form: Literal["sequence", "batched", "flat"] = "sequence"
    if isinstance(pooled, Tensor):
        form = "flat" if pooled.ndim == 2 else "batched"
        features = pooled.flatten(0, -2)
    else:
        features = torch.cat(tuple(pooled))
    if len(features) != len(owners):
        raise ValueError(f"the prompts have {len(owners)} {kind} placeholder tokens, but {len(features)} features")
    layers = getattr(output, "deepstack_features", None) or ()
    splits = any(not isinstance(layer, Tensor) for layer in layers)
    deeper = tuple(torch.cat(tuple(layer)) if splits else layer for layer in layers)
    return FeatureRows(features, deeper, owners, form, splits)
