"""Loads a checkpoint, from a hub id, a folder or the package, with its encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    set_seed,
)

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.segment_attention import use_segment_attention
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.models.vision_language_model import VisionLanguageModel

TINY = "tiny"


@dataclass(frozen=True)
class Backbone:
    """Names a model and how to load it; nothing is read before ``load_model`` or ``load_encoder``."""

    checkpoint: str = TINY
    """Hub id, local folder, or ``tiny`` for the model in the package."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Type of the weights in memory; ``auto`` takes the checkpoint's own."""
    attention: str | None = None
    """``sdpa``, ``eager``, ``flash_attention_2``, …; None lets transformers choose."""
    from_scratch: bool = False
    """Takes configuration and tokenizer only, and draws new weights from the run's seed."""
    gradient_checkpointing: bool = False
    """Trades compute for memory in the language layers while training."""
    min_pixels: int | None = None
    """Images are enlarged to at least this many pixels; None keeps the processor's own bound."""
    max_pixels: int | None = None
    """Images are reduced to at most this many pixels; None keeps the processor's own bound."""
    max_video_frames: int = 8
    """Frames read from a video at most."""
    trust_remote_code: bool = False
    """Runs Python code that comes with the checkpoint. Off unless you have read that code."""

    @property
    def source(self) -> str:
        """Where transformers finds the checkpoint."""
        return str(TINY_FOLDER) if self.checkpoint == TINY else self.checkpoint

    def load_encoder(self, max_tokens: int = 4096) -> ProcessorEncoder:
        """Loads tokenizer and processor.

        Raises:
            UserError: There is no such checkpoint.
        """
        processor = self._load(AutoProcessor if self._reads_images() else AutoTokenizer)
        self._bound_pixels(processor)
        return ProcessorEncoder(processor, max_tokens=max_tokens, max_video_frames=self.max_video_frames)

    def _reads_images(self) -> bool:
        return type(self._load(AutoConfig)) in AutoModelForImageTextToText._model_mapping

    def _bound_pixels(self, processor: Any) -> None:
        bounds = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        bounds = {name: value for name, value in bounds.items() if value is not None}
        if not bounds:
            return
        size = getattr(getattr(processor, "image_processor", None), "size", None)
        # Only processors that count pixels by area keep their bounds under these two names.
        if getattr(size, "shortest_edge", None) is None or getattr(size, "longest_edge", None) is None:
            raise UserError(
                f"model.backbone.min_pixels and max_pixels do not apply to {self.checkpoint!r}, whose processor has "
                f"size {size}; leave them out"
            )
        for name, value in bounds.items():
            setattr(size, name, value)

    def load_model(self, encoder: ProcessorEncoder, seed: int = 0) -> VisionLanguageModel:
        """Loads the weights (safetensors only), or draws new ones.

        Args:
            encoder: The encoder of the same checkpoint.
            seed: Seed of new weights, where ``from_scratch``.

        Raises:
            UserError: There is no such checkpoint, or it is no language model.
        """
        loader = AutoModelForImageTextToText if self._reads_images() else AutoModelForCausalLM
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.attention is not None:
            options["attn_implementation"] = self.attention
        if self.from_scratch:
            with torch.random.fork_rng():
                set_seed(seed)
                model = loader.from_config(self._load(AutoConfig), trust_remote_code=self.trust_remote_code, **options)
        else:
            model = self._load(loader, use_safetensors=True, **options)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        use_segment_attention(model)
        return VisionLanguageModel(model, media_token_ids=encoder.media_token_ids, padding_id=encoder.padding_id)

    def _load(self, loader: Any, **options: Any) -> Any:
        looks_like_folder = self.checkpoint.startswith((".", "/", "~")) or self.checkpoint.count("/") > 1
        if looks_like_folder and not Path(self.source).is_dir():
            raise UserError(
                f"model.backbone.checkpoint: there is no folder {self.checkpoint!r}; "
                "give an existing folder, a hub id or 'tiny'"
            )
        try:
            return loader.from_pretrained(
                self.source, revision=self.revision or "main", trust_remote_code=self.trust_remote_code, **options
            )
        except (OSError, ValueError) as fault:
            first_line = str(fault).strip().splitlines()[0]
            raise UserError(
                f"model.backbone.checkpoint: cannot load {self.checkpoint!r}: {first_line} "
                "(give a folder, a hub id such as Qwen/Qwen2.5-VL-3B-Instruct, or 'tiny')"
            ) from fault
