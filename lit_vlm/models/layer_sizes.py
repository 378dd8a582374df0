"""Reads off a model what its layers are made of, in numbers a token: what a plan of memory is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_vlm.models.parts import Part, part_of
from lit_vlm.models.tuning import PartModules


@dataclass(frozen=True)
class LinearInput:
    """What linear layers of one module read: several that read the same numbers count once."""

    width: int
    readers: int
    """Linear layers that need it for their gradient, since they train or have an adapter."""
    adapters: int
    """Those of them that have an adapter."""
    ranks: int
    """Width of all their adapters together."""


@dataclass(frozen=True)
class LayerSizes:
    """One layer of a decoder or a vision tower."""

    width: int
    heads: int
    queries: int
    """Numbers of a token's queries, over all heads."""
    keys: int
    """Numbers of a token's keys; its values have as many."""
    fused: bool
    """Whether queries, keys and values come from one linear layer, which keeps them together."""
    feed_forward: int
    """Numbers of a token between the two steps of the feed-forward network."""
    gated: bool
    """Whether that network has a gate, and so twice as many."""
    normed: tuple[tuple[int, bool, bool], ...]
    """For each norm the numbers of a token that it reads, whether it trains, and whether it works in fp32 (RMS)."""
    inputs: tuple[LinearInput, ...]
    """What linear layers outside the attention's last one read, where they keep it."""
    output_reader: bool
    """Whether the attention's last linear layer keeps what it reads."""
    weights: int
    """Numbers of its linear layers' weights."""
    trained_bytes: int


@dataclass(frozen=True)
class StackSizes:
    """The layers of a part, one after the other."""

    layers: tuple[LayerSizes, ...]
    checkpointed: bool
    """Whether activations are made again in the backward pass."""
    has_graph: bool
    """Whether gradients pass."""
    quadratic: bool
    """Whether its attention holds a number for each pair of tokens."""


@dataclass(frozen=True)
class ModelSizes:
    """All that a plan of memory is computed from."""

    weights: Mapping[Part, int]
    """Bytes of each part."""
    trained: Mapping[Part, int]
    """Bytes of the weights of each part that train."""
    largest_trained: int
    """Bytes of the largest tensor that trains."""
    language: StackSizes
    vision: StackSizes | None
    width: int
    """Of a hidden state."""
    vocabulary: int
    head_trains: bool
    item_size: int
    """Bytes of a number of the decoder's activations, without autocast."""
    adapter_item_size: int
    """Bytes of a number of an adapter."""
    largest_unit: int
    """Bytes of the largest layer, or of the embeddings, which sharding strategies gather at one time."""


def model_sizes(model: Any, parts: PartModules) -> ModelSizes:
    """Measures a model, before a strategy cuts its weights up.

    Args:
        model: The Hugging Face model, with its adapter where it has one.
        parts: The modules of each part.
    """
    weights: dict[Part, int] = dict.fromkeys(parts, 0)
    trained: dict[Part, int] = dict.fromkeys(parts, 0)
    largest = 0
    for name, parameter in model.named_parameters():
        part = part_of(name, parts)
        weights[part] += tensor_bytes(parameter)
        if parameter.requires_grad:
            trained[part] += tensor_bytes(parameter)
            largest = max(largest, tensor_bytes(parameter))
    for name, buffer in model.named_buffers():
        weights[_part_or_language(name, parts)] += tensor_bytes(buffer)
    head: Any = model.get_output_embeddings()
    before = {"vision", "projector"} & {part for part, size in trained.items() if size}
    language = _stack(model, parts["language"], has_graph=bool(before or trained["language"]))
    vision = None
    if "vision" in parts:
        vision = _stack(model, parts["vision"], has_graph=bool(trained["vision"]))
    units = [_bytes(layer.parameters()) for stack in _layer_lists(model, parts) for layer in stack]
    adapters = [parameter.element_size() for name, parameter in model.named_parameters() if "lora_" in name]
    return ModelSizes(
        weights=weights,
        trained=trained,
        largest_trained=largest,
        language=language,
        vision=vision,
        width=int(model.config.get_text_config().hidden_size),
        vocabulary=int(head.weight.shape[0]),
        head_trains=bool(head.weight.requires_grad),
        item_size=int(model.dtype.itemsize),
        adapter_item_size=max(adapters, default=0),
        largest_unit=max([tensor_bytes(head.weight), *units]),
    )


def tensor_bytes(tensor: Tensor) -> int:
    """Counts the bytes of a weight, for a quantised one with what its bits are read by."""
    state = getattr(tensor, "quant_state", None)
    beside = 0
    while state is not None:
        beside += sum(
            value.numel() * value.element_size() for value in (state.absmax, state.code) if isinstance(value, Tensor)
        )
        state = getattr(state, "state2", None)
    return tensor.numel() * tensor.element_size() + beside


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(map(tensor_bytes, tensors))


def _part_or_language(name: str, parts: PartModules) -> Part:
    holders = [
        (len(prefix), part) for part, prefixes in parts.items() for prefix in prefixes if name.startswith(prefix)
    ]
    return max(holders)[1] if holders else "language"


def _layer_lists(model: nn.Module, parts: PartModules) -> Iterator[nn.ModuleList]:
    for part in ("vision", "language"):
        for prefix in parts.get(part, ()):
            found = _layers(model.get_submodule(prefix))
            if found is not None:
                yield found


def _layers(part: nn.Module) -> nn.ModuleList | None:
    """Finds the longest list of modules that attend."""
    lists = [
        module
        for module in part.modules()
        if isinstance(module, nn.ModuleList) and len(module) and any(map(_attends, module[0].modules()))
    ]
    return max(lists, key=len, default=None)


def _stack(model: nn.Module, prefixes: tuple[str, ...], *, has_graph: bool) -> StackSizes:
    part = model.get_submodule(prefixes[0])
    layers = _layers(part)
    attention = getattr(getattr(part, "config", None), "_attn_implementation", "sdpa")
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in part.modules())
    return StackSizes(
        layers=tuple(_layer(layer) for layer in layers or ()),
        checkpointed=checkpointed,
        has_graph=has_graph,
        quadratic=attention == "eager",
    )


def _attends(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__ and any(isinstance(child, nn.Linear) for child in module.modules())


@dataclass(frozen=True)
class _Site:
    """A linear layer, with its adapter."""

    parent: str
    input: int
    output: int
    trains: bool
    rank: int


def _sites(module: nn.Module) -> list[_Site]:
    found = []
    inside: set[str] = set()
    for name, child in module.named_modules():
        parent = name.rpartition(".")[0]
        if any(name.startswith(f"{prefix}.") for prefix in inside):
            continue
        base = getattr(child, "base_layer", None)
        linear = base if isinstance(base, nn.Linear) else child
        if not isinstance(linear, nn.Linear):
            continue
        inside.add(name)
        rank = 0
        if base is not None:
            rank = sum(int(factor.out_features) for factor in child.lora_A.values())
        found.append(_Site(parent, linear.in_features, linear.out_features, linear.weight.requires_grad, rank))
    return found


def _layer(layer: nn.Module) -> LayerSizes:
    attention = next(module for module in layer.modules() if _attends(module))
    inner = _sites(attention)
    prefix = next(name for name, module in layer.named_modules() if module is attention)
    outer = [site for site in _sites(layer) if not (site.parent == prefix or site.parent.startswith(f"{prefix}."))]
    output, projections = inner[-1], inner[:-1]
    width = output.output
    queries = output.input
    fused = len(projections) == 1
    keys = queries if fused else (projections[1].output if len(projections) > 1 else queries)
    head_width = int(getattr(attention, "head_dim", 0) or 0)
    heads = queries // head_width if head_width else int(getattr(attention, "num_heads", 1))
    middle = max((site.output for site in outer), default=0)
    return LayerSizes(
        width=width,
        heads=heads,
        queries=queries,
        keys=keys,
        fused=fused,
        feed_forward=middle,
        gated=sum(site.output == middle for site in outer) > 1,
        normed=tuple(_norms(layer, width, queries, keys)),
        inputs=tuple(_inputs([*projections, *outer])),
        output_reader=output.trains or output.rank > 0,
        weights=sum(site.input * site.output for site in (*inner, *outer)),
        trained_bytes=_bytes(value for value in layer.parameters() if value.requires_grad),
    )


def _norms(layer: nn.Module, width: int, queries: int, keys: int) -> Iterator[tuple[int, bool, bool]]:
    for name, module in layer.named_modules():
        weight = getattr(module, "weight", None)
        if "Norm" not in type(module).__name__ or not isinstance(weight, Tensor):
            continue
        size = weight.numel()
        if size != width:  # of single heads
            size = keys if name.rpartition(".")[2].startswith("k") else queries
        yield size, weight.requires_grad, not isinstance(module, nn.LayerNorm)


def _inputs(sites: Iterable[_Site]) -> Iterator[LinearInput]:
    groups: dict[tuple[str, int], list[_Site]] = {}
    for site in sites:
        if site.trains or site.rank:
            groups.setdefault((site.parent, site.input), []).append(site)
    for (_, width), members in groups.items():
        yield LinearInput(
            width=width,
            readers=len(members),
            adapters=sum(site.rank > 0 for site in members),
            ranks=sum(site.rank for site in members),
        )
