"""Base weights in four or eight bits, for training adapters on them.

NF4 with double quantisation: Dettmers et al., QLoRA (2023). Eight bits: Dettmers et al., LLM.int8() (2022).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers import BitsAndBytesConfig

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.parts import module_parts, part_of
from lit_vlm.models.tuning import linear_layers, require_parts

TypeName = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class QuantisationSettings:
    """Stores the linear layers of some parts in few bits; they are frozen, so an adapter is needed to train."""

    kind: Literal["nf4", "int8"] = "nf4"
    """Four bits a weight (QLoRA), or eight (LLM.int8)."""
    double: bool = True
    """nf4: quantises the scales too, which saves about 0.4 bits a weight."""
    compute_dtype: TypeName | None = None
    """nf4: type in which weights are multiplied; None takes ``model.backbone.dtype``."""
    storage: Literal["uint8", "bfloat16", "float16", "float32"] = "uint8"
    """nf4: type that the packed bits are declared as; FSDP needs that of the other weights."""
    parts: tuple[Literal["vision", "projector", "language"], ...] = ("language",)
    """Parts that are quantised; the head never is."""

    def __post_init__(self) -> None:
        names = ("double", "compute_dtype", "storage")
        given = [name for name in names if getattr(self, name) != getattr(QuantisationSettings, name)]
        if self.kind == "int8" and given:
            raise UserError(
                f"model.backbone.quantisation.{given[0]} is for kind nf4, and kind is int8; leave {given[0]} out, or "
                "give kind nf4"
            )

    def configuration(self, dtype: str, kept: Collection[str]) -> BitsAndBytesConfig:
        """Describes the quantisation to transformers.

        Args:
            dtype: Type of the other weights.
            kept: Names of linear layers that stay as they are.

        Raises:
            UserError: No type to compute in is named.
        """
        if self.kind == "int8":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(kept))
        compute_dtype = self.compute_dtype or dtype
        if compute_dtype == "auto":
            raise UserError(
                "model.backbone.quantisation needs a type to compute in; give model.backbone.dtype bfloat16, or "
                "quantisation.compute_dtype"
            )
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=getattr(torch, compute_dtype),
            bnb_4bit_quant_storage=getattr(torch, self.storage),
            llm_int8_skip_modules=list(kept),
        )

    def kept_layers(self, skeleton: nn.Module) -> list[str]:
        """Names the linear layers that stay as they are.

        Args:
            skeleton: The model, whose weights need not be in memory.

        Raises:
            UserError: The model lacks a part that is to be quantised.
        """
        parts = module_parts(skeleton)
        require_parts(parts, self.parts, "model.backbone.quantisation.parts")
        return [name for name in linear_layers(skeleton) if part_of(name, parts) not in self.parts]


def keep_differentiable(model: nn.Module) -> None:
    """Forbids four-bit layers the format for inference on a CPU, which they would keep, and which has no gradient."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def misfits(model: nn.Module) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Lists the quantised weights of another shape than their layer, which are packed without being compared.

    Returns:
        Name, shape found and shape wanted of each.
    """
    found: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit | Linear8bitLt):
            state = getattr(module.weight, "quant_state", None)
            shape = tuple(module.weight.shape if state is None else state.shape)
            if shape != (module.out_features, module.in_features):
                found.append((f"{name}.weight", shape, (module.out_features, module.in_features)))
    return found
