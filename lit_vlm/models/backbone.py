"""Loads a checkpoint, from a hub id, a folder or the package, with its encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from lit_vlm.models.adapters import AdapterSettings, add_adapter, merge_adapter
from lit_vlm.models.parts import Part, module_parts
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.quantisation import QuantisationSettings, keep_differentiable
from lit_vlm.models.segment_attention import use_segment_attention
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.models.tuning import checkpoint_gradients, train_only
from lit_vlm.models.vision_language_model import VisionLanguageModel

TINY = "tiny"


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
        model = self._load_weights(seed, device)
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

    def save(self, policy: VisionLanguageModel, folder: Path) -> None:
        """Writes a trained policy: its weights, its adapter, or its weights with the adapter merged into them.

        Weights that were quantised are loaded anew for merging, so that their rounding is not saved.
        """
        if self.adapter is None or self.adapter.export == "adapter":
            policy.save(folder)
        else:
            base = replace(self, adapter=None, quantisation=None)._load_weights(seed=0, device="cpu")
            merge_adapter(base, policy.model).save_pretrained(folder)

    def _load_weights(self, seed: int, device: torch.device | str) -> Any:
        loader = AutoModelForImageTextToText if self._reads_images() else AutoModelForCausalLM
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.attention is not None:
            options["attn_implementation"] = self.attention

        def build() -> Any:
            return loader.from_config(self._load(AutoConfig), trust_remote_code=self.trust_remote_code, **options)

        if self.from_scratch:
            with torch.random.fork_rng():
                set_seed(seed)
                return build()
        if self.quantisation is None:
            return self._load(loader, use_safetensors=True, **options)
        configuration = self.quantisation.configuration(self.dtype, self.quantisation.kept_layers(build))
        model = self._load(
            loader, use_safetensors=True, quantization_config=configuration, device_map={"": device}, **options
        )
        keep_differentiable(model)
        return model

    def _load(self, loader: Any, **options: Any) -> Any:
        looks_like_folder = self.checkpoint.startswith((".", "/", "~")) or self.checkpoint.count("/") > 1
        if looks_like_folder and not Path(self.source).is_dir():
            raise UserError(
                f"model.backbone.checkpoint: there is no folder {self.checkpoint!r}; "
                "give an existing folder, a hub id or 'tiny'"
            )
        if self.gguf_file is not None:
            options["gguf_file"] = self.gguf_file
        try:
            return loader.from_pretrained(
                self.source, revision=self.revision or "main", trust_remote_code=self.trust_remote_code, **options
            )
        except (OSError, ValueError, ImportError) as fault:
            first_line = str(fault).strip().splitlines()[0]
            raise UserError(
                f"model.backbone.checkpoint: cannot load {self.checkpoint!r}: {first_line} "
                "(give a folder, a hub id such as Qwen/Qwen2.5-VL-3B-Instruct, or 'tiny')"
            ) from fault
