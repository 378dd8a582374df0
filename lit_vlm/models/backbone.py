"""Loads a checkpoint, from a hub id, a folder or the package, with its encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    set_seed,
)

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.models.adapters import AdapterSettings, add_adapter, check_adapter, merge_adapter
from lit_vlm.models.checkpoint_faults import (
    LOADING_FAULTS,
    explain_fault,
    refuse_incomplete,
    refuse_without_words,
)
from lit_vlm.models.parts import Part, module_parts
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.quantisation import QuantisationSettings, keep_differentiable, misfits
from lit_vlm.models.segment_attention import use_segment_attention
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.models.tuning import checkpoint_gradients, train_only
from lit_vlm.models.vision_language_model import VisionLanguageModel

TINY = "tiny"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backbone:
    """Names a model and how to load it; nothing is read before ``load_model`` or ``load_encoder``."""

    checkpoint: str = TINY
    """Hub id, local folder, or ``tiny`` for the model in the package."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    gguf_file: str | None = None
    """Name of a GGUF file within the checkpoint that holds configuration, tokenizer and weights of a text-only model;
    the weights are dequantised to ``dtype``. Needs the package gguf."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Type of the weights in memory; ``auto`` takes the checkpoint's own."""
    attention: str | None = None
    """``sdpa``, ``eager``, ``flash_attention_2``, …; None lets transformers choose."""
    from_scratch: bool = False
    """Takes configuration and tokenizer only, and draws new weights from the run's seed."""
    gradient_checkpointing: bool = False
    """Trades compute for memory in the layers that train, never in a frozen part nor while generating."""
    train_parts: tuple[Part, ...] | None = None
    """Parts that train, the others are frozen; None trains all. An adapter has its own choice of parts."""
    adapter: AdapterSettings | None = None
    """Trains a low-rank adapter instead of the weights themselves."""
    quantisation: QuantisationSettings | None = None
    """Holds frozen weights in few bits, under an adapter."""
    min_pixels: int | None = None
    """Images are enlarged to at least this many pixels; None keeps the processor's own bound."""
    max_pixels: int | None = None
    """Images are reduced to at most this many pixels; None keeps the processor's own bound."""
    max_video_frames: int = 8
    """Frames read from a video at most."""
    trust_remote_code: bool = False
    """Runs Python code that comes with the checkpoint. Off unless you have read that code."""

    def __post_init__(self) -> None:
        if self.train_parts is not None and self.adapter is not None:
            raise UserError(
                "model.backbone.train_parts is for training without an adapter; with one, name the parts in "
                "model.backbone.adapter.parts and train_in_full"
            )
        if self.quantisation is not None and self.adapter is None:
            raise UserError(
                "model.backbone.quantisation freezes the weights, so there would be nothing to train; add "
                "model.backbone.adapter, such as --model.backbone.adapter.rank 16"
            )
        if self.quantisation is not None and self.gguf_file is not None:
            raise UserError(
                "model.backbone.quantisation cannot read model.backbone.gguf_file; load it without, export the model, "
                "and give the exported folder as model.backbone.checkpoint"
            )
        if self.from_scratch and self.adapter is not None:
            raise UserError("model.backbone.from_scratch draws new weights, on which no adapter is any use; leave one")
        if self.from_scratch and self.dtype == "auto":
            raise UserError("model.backbone.dtype auto takes the type of weights that from_scratch draws; name a type")
        self._check_media_bounds()

    def _check_media_bounds(self) -> None:
        least, most = self.min_pixels, self.max_pixels
        for name, value in (("min_pixels", least), ("max_pixels", most), ("max_video_frames", self.max_video_frames)):
            if value is not None and value < 1:
                raise UserError(f"model.backbone.{name} is {value}; give at least 1")
        if least is not None and most is not None and least > most:
            raise UserError(f"model.backbone.min_pixels is {least}, above max_pixels {most}; exchange them")

    @property
    def source(self) -> str:
        """Where transformers finds the checkpoint."""
        return str(TINY_FOLDER) if self.checkpoint == TINY else self.checkpoint

    def reference(self) -> ModelReference:
        """Names the checkpoint for those that read its weights one by one.

        Raises:
            UserError: The weights of the model are in no checkpoint that can be read so.
        """
        if self.from_scratch or self.gguf_file is not None:
            option = "from_scratch draws new weights" if self.from_scratch else "gguf_file holds packed weights"
            raise UserError(
                f"the weights that training starts from are read anew, but model.backbone.{option}, which cannot be; "
                "export the model first, and give the exported folder as model.backbone.checkpoint"
            )
        return ModelReference(self.checkpoint, revision=self.revision)

    def load_encoder(self, max_tokens: int = 4096) -> ProcessorEncoder:
        """Loads tokenizer and processor.

        Raises:
            UserError: There is no such checkpoint.
        """
        processor = self._load(AutoProcessor if self._reads_images() else AutoTokenizer)
        refuse_without_words(getattr(processor, "tokenizer", processor), self.checkpoint)
        self._bound_pixels(processor)
        return ProcessorEncoder(processor, max_tokens=max_tokens, max_video_frames=self.max_video_frames)

    def _reads_images(self) -> bool:
        return type(self._load(AutoConfig)) in AutoModelForImageTextToText._model_mapping

    def _bound_pixels(self, processor: Any) -> None:
        bounds = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        bounds = {name: value for name, value in bounds.items() if value is not None}
        if not bounds:
            return
        size: Any = getattr(getattr(processor, "image_processor", None), "size", None)
        # Only processors that count pixels by area keep their bounds under these two names.
        if getattr(size, "shortest_edge", None) is None or getattr(size, "longest_edge", None) is None:
            told = {name: value for name, value in dict(size or {}).items() if value is not None}
            raise UserError(
                f"model.backbone.min_pixels and max_pixels do not apply to {self.checkpoint!r}, "
                + (f"whose processor has an image size of its own, {told}" if told else "which reads text only")
                + "; leave them out"
            )
        for name, value in bounds.items():
            setattr(size, name, value)
        if size.shortest_edge > size.longest_edge:
            raise UserError(
                f"the processor of {self.checkpoint!r} would enlarge images to {size.shortest_edge} pixels and reduce "
                f"them to {size.longest_edge}; give both model.backbone.min_pixels and max_pixels"
            )

    def load_model(
        self, encoder: ProcessorEncoder, seed: int = 0, device: torch.device | str = "cpu"
    ) -> VisionLanguageModel:
        """Loads the weights (safetensors only), or draws new ones, and decides what trains.

        Args:
            encoder: The encoder of the same checkpoint.
            seed: Seed of new weights, an adapter's or, where ``from_scratch``, all.
            device: Where weights are quantised, and stay; others are loaded into main memory.

        Raises:
            UserError: There is no such checkpoint, it is no language model, or the settings do not fit it.
        """
        skeleton = self._checked_skeleton() if self._chooses_layers() else None
        model = self._load_weights(seed, device, skeleton)
        if encoder.processor is not encoder.tokenizer:
            encoder.family.check_model(model)
        parts = module_parts(model)
        if self.adapter is not None:
            with torch.random.fork_rng():
                set_seed(seed)
                add_adapter(model, parts, self.adapter, self.source, self.revision)
        elif self.train_parts is not None:
            train_only(model, parts, self.train_parts)
        if self.gradient_checkpointing:
            checkpoint_gradients(model, parts)
        use_segment_attention(model)
        return VisionLanguageModel(
            model, media_token_ids=encoder.media_token_ids, padding_id=encoder.padding_id, parts=parts
        )

    def save(self, policy: VisionLanguageModel, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes a trained policy: its weights, its adapter, or its weights with the adapter merged into them.

        Weights that were quantised are loaded anew for merging, so that their rounding is not saved.

        Args:
            policy: The trained policy.
            folder: Where to write.
            state: As in ``VisionLanguageModel.save``.
        """
        if self.adapter is None or self.adapter.export == "adapter":
            policy.save(folder, state)
        else:
            base = replace(self, adapter=None, quantisation=None)._load_weights(seed=0, device="cpu")
            merge_adapter(base, policy.model, state).save_pretrained(folder)

    def skeleton(self) -> Any:
        """Builds the plain model without memory for its weights, as ``from_pretrained`` would configure it.

        Raises:
            UserError: There is no such checkpoint, or it is no language model.
        """
        with torch.device("meta"):
            skeleton = self._build()
        if skeleton.can_generate() and not self.from_scratch:
            # transformers goes without as well where a checkpoint has none.
            with suppress(OSError):
                skeleton.generation_config = GenerationConfig.from_pretrained(
                    self.source, revision=self.revision or "main"
                )
        return skeleton

    def _chooses_layers(self) -> bool:
        return not (self.adapter is None and self.train_parts is None and self.quantisation is None)

    def _checked_skeleton(self) -> Any:
        """Builds the model without memory for its weights, and finds what does not fit it before they are read.

        Raises:
            UserError: Parts or layers that the settings name are not there.
        """
        skeleton = self.skeleton()
        parts = module_parts(skeleton)
        if self.adapter is not None:
            check_adapter(skeleton, parts, self.adapter)
        elif self.train_parts is not None:
            train_only(skeleton, parts, self.train_parts)
        return skeleton

    def _build(self) -> Any:
        options = self._options()
        if self.dtype == "auto":
            del options["dtype"]
        try:
            return self._loader().from_config(
                self._load(AutoConfig), trust_remote_code=self.trust_remote_code, **options
            )
        except LOADING_FAULTS as fault:
            raise self._cannot_load(fault) from fault

    def _loader(self) -> Any:
        return AutoModelForImageTextToText if self._reads_images() else AutoModelForCausalLM

    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype} | ({} if self.attention is None else {"attn_implementation": self.attention})

    def _load_weights(self, seed: int, device: torch.device | str, skeleton: Any = None) -> Any:
        if self.from_scratch:
            with torch.random.fork_rng():
                set_seed(seed)
                return self._build()
        options = self._options() | {"use_safetensors": True}
        if self.quantisation is not None:
            kept = self.quantisation.kept_layers(skeleton)
            options["quantization_config"] = self.quantisation.configuration(self.dtype, kept)
            options["device_map"] = {"": device}
        # Sizes that differ are refused here, with their names.
        model, report = self._load(self._loader(), output_loading_info=True, ignore_mismatched_sizes=True, **options)
        mismatched = [*report["mismatched_keys"], *misfits(model)]
        refuse_incomplete(report["missing_keys"], mismatched, self.checkpoint)
        if self.quantisation is not None:
            keep_differentiable(model)
        return model

    def _load(self, loader: Any, **options: Any) -> Any:
        looks_like_folder = self.checkpoint.startswith((".", "/", "~")) or self.checkpoint.count("/") > 1
        if looks_like_folder and not Path(self.source).is_dir():
            raise UserError(
                f"model.backbone.checkpoint: there is no folder {self.checkpoint!r}; "
                "give an existing folder, a hub id or 'tiny'"
            )
        if self.revision is not None and Path(self.source).is_dir():
            raise UserError(
                f"model.backbone.revision is {self.revision!r}, but the folder {self.checkpoint!r} has no revisions; "
                "leave it out, or give a hub id"
            )
        if self.gguf_file is not None:
            options["gguf_file"] = self.gguf_file
        if self.trust_remote_code:
            _tell_of_code(self.checkpoint, self.revision)
        try:
            return loader.from_pretrained(
                self.source, revision=self.revision or "main", trust_remote_code=self.trust_remote_code, **options
            )
        except LOADING_FAULTS as fault:
            raise self._cannot_load(fault) from fault

    def _cannot_load(self, fault: Exception) -> UserError:
        return (
            fault if isinstance(fault, UserError) else UserError(explain_fault(fault, self.checkpoint, self.attention))
        )


@lru_cache
def _tell_of_code(checkpoint: str, revision: str | None) -> None:
    """Says once whose code runs."""
    told = checkpoint if revision is None else f"{checkpoint} at {revision}"
    logger.warning("model.backbone.trust_remote_code is on: Python code that comes with %s runs in this process", told)
