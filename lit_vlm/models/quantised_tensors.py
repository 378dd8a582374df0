"""Dequantises weights that bitsandbytes has stored in four or eight bits, one at a time.

NF4 with double quantisation: Dettmers et al., QLoRA (2023). Eight bits: Dettmers et al., LLM.int8() (2022).
The arithmetic is in float32. That of bitsandbytes 0.50 on a CPU is passed by: where the last dimension is no multiple
of the block (SigLIP's 4304 and 64), it takes the scales of other blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import TensorSource
from lit_vlm.models.wrapped_tensors import WrappedTensors

FOUR_BIT_STATES = tuple(f".quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
FOUR_BIT_TENSORS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
EIGHT_BIT_TENSORS = (".SCB", ".weight_format")
EIGHT_BIT_STEPS = 127.0
"""A row's largest weight."""


def dequantised(source: TensorSource) -> TensorSource:
    """Returns a source whose weights are not quantised: itself, or one that dequantises as it reads.

    Raises:
        UserError: The weights are quantised in another way than by bitsandbytes.
    """
    described = source.configuration.get("quantization_config")
    if not described:
        return source
    method = described.get("quant_method") if isinstance(described, Mapping) else described
    if method != "bitsandbytes":
        raise UserError(
            f"{source.label} is quantised with {method}; give the checkpoint that it was made from, or one quantised "
            "with bitsandbytes"
        )
    return QuantisedTensors(source)


class QuantisedTensors(WrappedTensors):
    """The weights that a quantised checkpoint stands for, in float32; what quantisation wrote beside them is hidden.

    Args:
        inner: The files as they are.

    Raises:
        UserError: A weight is there without what it takes to dequantise it.
    """

    def __init__(self, inner: TensorSource) -> None:
        super().__init__(inner)
        present = frozenset(inner.names)
        self._present = present
        self._kinds: dict[str, Literal["four", "eight"]] = {}
        self._states: dict[str, dict[str, Any]] = {}
        for name in inner.names:
            if any(name + state in present for state in FOUR_BIT_STATES):
                self._kinds[name] = "four"
            elif name.endswith(".weight") and name.removesuffix(".weight") + ".SCB" in present:
                self._kinds[name] = "eight"
        beside = {name + end for name in self._kinds for end in (*FOUR_BIT_STATES, *FOUR_BIT_TENSORS)}
        beside |= {name.removesuffix(".weight") + end for name in self._kinds for end in EIGHT_BIT_TENSORS}
        self._names = [name for name in inner.names if name not in beside]
        for name in self._names:
            if name not in self._kinds and inner.dtype(name) in (torch.uint8, torch.int8):
                raise UserError(
                    f"{inner.label} holds {name!r} in few bits without its scales; save the checkpoint anew with "
                    "save_pretrained"
                )

    @property
    def names(self) -> Sequence[str]:
        """Names of all weights, without what is needed to dequantise them."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of the weight that is stood for."""
        return tuple(self._state(name)["shape"]) if self._kinds.get(name) == "four" else self.inner.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Returns the type that the weight had before, or that it is multiplied in."""
        kind = self._kinds.get(name)
        if kind is None:
            return self.inner.dtype(name)
        if kind == "four":
            return _torch_type(self._state(name)["dtype"])
        told = self.configuration.get("dtype") or self.configuration.get("torch_dtype")
        return _torch_type(told or "float16")

    def read(self, name: str) -> Tensor:
        """Reads one weight; a quantised one as float32."""
        kind = self._kinds.get(name)
        if kind is None:
            return self.inner.read(name)
        with self.inner.opened():
            return self._four_bits(name) if kind == "four" else self._eight_bits(name)

    def _state_name(self, name: str) -> str:
        return next(name + state for state in FOUR_BIT_STATES if name + state in self._present)

    def _state(self, name: str) -> dict[str, Any]:
        if name not in self._states:
            content = bytes(self.inner.read(self._state_name(name)).tolist())
            try:
                self._states[name] = json.loads(content)
            except ValueError as fault:
                raise UserError(f"{self.label}: what describes the bits of {name!r} is no JSON: {fault}") from fault
        return self._states[name]

    def _four_bits(self, name: str) -> Tensor:
        """Looks up both weights of a byte, the first in its upper half, and scales each block."""
        state = self._state(name)
        shape = tuple(state["shape"])
        count, block = math.prod(shape), state["blocksize"]
        # The bits may be declared as another type, for FSDP.
        packed = self.inner.read(name).reshape(-1).view(torch.uint8)
        scales = self._scales(name, state)
        if packed.numel() != (count + 1) // 2 or scales.numel() != -(-count // block):
            raise UserError(
                f"{self.label}: {name!r} has {packed.numel()} bytes and {scales.numel()} scales, which do not make up "
                f"its shape {shape}; fetch it again"
            )
        values = self._beside(name, ".quant_map").float()
        byte = torch.arange(256)
        pairs = torch.stack([values[byte >> 4], values[byte & 15]], dim=1)
        dense = pairs.index_select(0, packed.int()).reshape(-1)[:count]
        whole = count // block * block
        dense[:whole].view(-1, block).mul_(scales[: count // block, None])
        dense[whole:] *= scales[count // block :]
        return dense.reshape(shape)

    def _scales(self, name: str, state: Mapping[str, Any]) -> Tensor:
        """Returns the largest weight of each block, which double quantisation has stored in eight bits."""
        scales = self._beside(name, ".absmax")
        if "nested_blocksize" not in state:
            return scales.float()
        values = self._beside(name, ".nested_quant_map").float().index_select(0, scales.reshape(-1).int())
        outer = self._beside(name, ".nested_absmax").float().repeat_interleave(state["nested_blocksize"])
        offset: float = state["nested_offset"]
        return values * outer[: values.numel()] + offset

    def _beside(self, name: str, end: str) -> Tensor:
        if name + end not in self._present:
            raise UserError(f"{self.label} lacks {name + end!r}, which it takes to dequantise {name!r}; fetch it again")
        return self.inner.read(name + end)

    def _eight_bits(self, name: str) -> Tensor:
        scales = self.inner.read(name.removesuffix(".weight") + ".SCB").float()
        return self.inner.read(name).float() * (scales / EIGHT_BIT_STEPS).unsqueeze(1)


def _torch_type(name: str) -> torch.dtype:
    return getattr(torch, str(name).removeprefix("torch."))  # type: ignore[no-any-return]
