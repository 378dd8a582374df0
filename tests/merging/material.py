"""Checkpoints that lie in memory, and small ones to merge."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import MergeTensors, ModelReference, TensorSource
from lit_vlm.merging.merge_plan import MergePlan

WIDTH = 4
TOKENS = {"a": 0, "b": 1, "c": 2}


class MemorySource(TensorSource):
    """A checkpoint in memory; counts what is read."""

    def __init__(
        self,
        label: str,
        tensors: Mapping[str, Tensor],
        configuration: Mapping[str, Any] | None = None,
        tokens: Mapping[str, int] | None = None,
    ) -> None:
        self._label = label
        self.tensors = dict(tensors)
        self._configuration = dict(configuration or {})
        self._tokens = tokens
        self.was_read: list[str] = []

    @property
    def label(self) -> str:
        return self._label

    @property
    def folder(self) -> Path:
        return Path(self._label)

    @property
    def configuration(self) -> Mapping[str, Any]:
        return self._configuration

    @property
    def names(self) -> Sequence[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def read(self, name: str) -> Tensor:
        self.was_read.append(name)
        return self.tensors[name].clone()

    def vocabulary(self) -> Mapping[str, int]:
        if self._tokens is None:
            raise UserError(f"{self.label} has no tokenizer")
        return self._tokens

    def digests(self) -> Mapping[str, str]:
        content = b"".join(
            name.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            for name, tensor in self.tensors.items()
        )
        return {"model.safetensors": hashlib.sha256(content).hexdigest()}


def opener(*sources: MemorySource) -> Callable[[ModelReference], TensorSource]:
    """Opens the sources by their labels."""
    known = {source.label: source for source in sources}

    def open_source(reference: ModelReference) -> TensorSource:
        if str(reference) not in known:
            raise UserError(f"there is no checkpoint {reference}")
        return known[str(reference)]

    return open_source


def folder_source(folder: Path, label: str) -> MemorySource:
    """Reads a saved checkpoint."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    configuration = json.loads((folder / "config.json").read_text())
    tokenizer = folder / "tokenizer.json"
    tokens: dict[str, int] | None = None
    if tokenizer.exists():
        content = json.loads(tokenizer.read_text())
        tokens = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
    return MemorySource(label, tensors, configuration, tokens)


def text_model(
    label: str,
    seed: int = 0,
    *,
    layers: int = 2,
    rows: int = 3,
    tied: bool = False,
    tokens: Mapping[str, int] | None = TOKENS,
    dtype: torch.dtype = torch.float32,
    prefix: str = "model.",
    head: str = "lm_head.weight",
    **configuration: Any,
) -> MemorySource:
    """A text model of a few numbers; of another prefix, the decoder of a vision-language model."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}embed_tokens.weight": (rows, WIDTH)}
    for layer in range(layers):
        shapes |= {
            f"{prefix}layers.{layer}.self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{prefix}layers.{layer}.self_attn.q_proj.bias": (WIDTH,),
            f"{prefix}layers.{layer}.mlp.up_proj.weight": (2 * WIDTH, WIDTH),
            f"{prefix}layers.{layer}.input_layernorm.weight": (WIDTH,),
        }
    shapes[f"{prefix}norm.weight"] = (WIDTH,)
    if not tied:
        shapes[head] = (rows, WIDTH)
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return MemorySource(label, tensors, {"tie_word_embeddings": tied, **configuration}, tokens)


def vlm(label: str, seed: int = 0, **options: Any) -> MemorySource:
    """A vision-language model of a few numbers, named as LLaVA is on disk."""
    source = text_model(label, seed, prefix="language_model.model.", head="language_model.lm_head.weight", **options)
    generator = torch.Generator().manual_seed(seed + 1000)
    source.tensors |= {
        "vision_tower.encoder.layers.0.mlp.fc1.weight": torch.randn(3, 3, generator=generator),
        "multi_modal_projector.linear_1.weight": torch.randn(WIDTH, 3, generator=generator),
    }
    return source


class Added(Merge):
    """The target and all weighted differences."""

    prunes = True

    def __call__(self, tensors: MergeTensors) -> Tensor:
        added = [donor.weight * donor.delta for donor in tensors.donors if donor.delta is not None]
        return tensors.target + torch.stack(added).sum(0)


class Mean(Merge):
    """The weighted sum of the donors."""

    needs_values = True
    needs_deltas = False

    def __call__(self, tensors: MergeTensors) -> Tensor:
        return torch.stack([donor.weight * donor.value for donor in tensors.donors if donor.value is not None]).sum(0)


class Middle(Mean):
    """The same of exactly two."""

    donor_counts = (2, 2)


def run_plan(plan: MergePlan) -> dict[str, Tensor]:
    """Computes all weights of the result."""
    result = {}
    for planned in plan.outputs:
        if planned.merged:
            tensors = plan.tensors(planned)
            merged = plan.keep_rows(planned, plan.settings.operation(tensors).to(planned.dtype), tensors.target)
        else:
            merged = plan.kept(planned)(0, math.prod(planned.shape)).view(planned.shape).to(planned.dtype)
        result[planned.place.name] = merged
    return result
