"""Predicts the memory of training, part by part, from the sizes of a model and of a pass. Nothing is run.

Legend: ``S`` tokens of a pass (padding included), ``b`` bytes of an activation, ``h`` hidden width, ``a`` and ``k``
numbers of a token's queries and keys, ``f`` those between the two steps of the feed-forward network, ``V`` vocabulary,
``C`` tokens whose logits exist at one time, ``G`` bytes of all gradients.

What autograd keeps of a layer, in bytes (``kept_by_layer``):

- a norm: its input (RMS norms work in fp32: ``4 h S``), and where it trains the normalised input too;
- linear layers that train or have an adapter: what they read, once for those that read the same numbers, ``b in S``;
  an adapter the output of its first factor, ``b r S``;
- attention: queries, keys, values and output, ``b (2 a + 2 k) S``; where one linear layer makes them all, its whole
  output besides, ``3 b a S``; with eager attention also ``b heads L`` for each token of a row of ``L``, and in half
  precision ``4 heads L`` more;
- feed-forward: ``b f S`` (its activation's input), with a gate ``3 b f S``.

A frozen layer in front of everything that trains keeps nothing. With gradient checkpointing a layer keeps its input,
``b h S``, and one layer at a time all of the above. Under autocast ``b`` is 2, norms read fp32, each of the linear
layers keeps a copy of its own of what it reads, and weights have a copy of 2 bytes each.

The head works in slices of ``8 C V`` bytes: two of them at a time, or one while it is normalised; its weight gets
fp32 gradients of ``4 V h``.

The memory of a run is the largest of some moments (``MemoryPlan.phases``), each with weights, optimizer state (twice
the weights that train), reference, and features of media:

- ``images read``: one layer of a frozen vision tower, which keeps nothing;
- ``forward ends``: all that is kept, the head's slices, and the gradients of the step before or of earlier
  micro-batches: automatic optimisation drops them only before the backward pass;
- ``backward begins``: all that is kept, the head's slices and gradients, and those of earlier micro-batches;
- ``layer made again``: with checkpointing, without slices, what the last layer keeps and twice its widest activation;
- ``backward ends``: all gradients, what the last layer left keeps, and three times its widest activation;
- ``optimizer step``: all gradients, and what the step computes with: on a GPU once the weights that train, else twice
  the largest of them;
- ``rollout``: keys and values of all completions, ``2 b k`` a layer and token, and once more those of a layer while
  they grow, with five times the logits of a step.

Data parallelism adds ``G`` for buckets that are exchanged. Sharding divides weights, gradients and optimizer state
over the ranks, as far as the strategy does, and adds the weights of two gathered layers.

Not counted: the framework itself, memory lost in gaps between tensors, and layers of experts, which are taken for dense
ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lit_vlm.interfaces.memory import MemoryPlan
from lit_vlm.models.layer_sizes import LayerSizes, ModelSizes, StackSizes
from lit_vlm.models.support_matrix import StrategyKind

ROOM = 64
"""Tokens that keys and values grow by at a time, see ``growing_cache``."""
SLICE_BYTES = 8
"""Bytes for each logit of a slice, forward or backward."""
DRAW_COPIES = 5
"""Copies of the logits of a step while tokens are drawn, in fp32."""
WIDEST, WIDEST_AGAIN = 3, 2
"""Gradients of a layer's widest activation that exist at one time, at the end of the backward pass and before."""


@dataclass(frozen=True)
class PassSize:
    """What goes through the model at one time."""

    tokens: int
    """Of language, padding and placeholders of media included."""
    row_tokens: int
    """Of the longest row."""
    labels: int
    """Tokens that are predicted."""
    patches: int = 0
    """Tokens of the vision tower, before any are merged."""
    largest_image: int = 0
    """Patches of the largest image, among which its attention goes."""
    media_tokens: int = 0
    """Features that the language part reads."""
    shared_keys: int = 0
    """Keys of prompts that are repeated for each completion, in tokens; 0 where prompts are not shared."""


@dataclass(frozen=True)
class RolloutSize:
    """What is sampled at one time."""

    prompts: int
    prompt_tokens: int
    """Of the longest prompt."""
    rows: int
    """Completions of all prompts."""
    new_tokens: int
    """Of the longest completion."""


@dataclass(frozen=True)
class Circumstances:
    """What a run's memory depends on beside the model and the pass."""

    strategy: StrategyKind = "single"
    ranks: int = 1
    shards: tuple[bool, bool, bool] | None = None
    """Whether weights, gradients and optimizer state are divided over ranks; None as the strategy's kind does."""
    autocast: bool = False
    on_gpu: bool = False
    accumulates: bool = False
    """Whether a step has several passes, so that gradients of earlier ones are there."""
    drops_gradients: bool = False
    """Whether a step's gradients are dropped right after it, and not before the next backward pass."""
    chunk_tokens: int = 1024
    reference_bytes: int = 0
    """Weights that are kept a second time."""
    keeps_features: bool = False
    """Whether features of media are kept from one pass to another."""


def plan_memory(
    sizes: ModelSizes,
    update: PassSize,
    circumstances: Circumstances,
    rollout: RolloutSize | None = None,
    told: str = "",
) -> MemoryPlan:
    """Predicts the memory of each moment of a training step, on each device.

    Args:
        sizes: Of the model.
        update: The largest forward and backward pass.
        circumstances: How it is trained.
        rollout: What is sampled before, where anything is.
        told: Says what the pass is, for the reader.
    """
    given = circumstances
    divide = _divisors(given)
    trained = sum(sizes.trained.values())
    item = 2 if given.autocast else sizes.item_size
    features = update.media_tokens * sizes.width * item if given.keeps_features else 0
    gathered = 2 * sizes.largest_unit if divide[0] > 1 else 0
    lasting = {
        **{f"weights, {part}": size // divide[0] for part, size in sizes.weights.items()},
        "weights gathered from ranks": gathered,
        "optimizer state": 2 * trained // divide[2],
        "reference": given.reference_bytes // divide[0],
        "features of media": features,
    }
    gradients = trained // divide[1]
    buckets = trained if given.strategy in ("ddp", "deepspeed") and given.ranks > 1 else 0
    activations = _kept(sizes, update, given, item)
    slices = SLICE_BYTES * min(given.chunk_tokens, update.labels) * sizes.vocabulary
    head = 4 * sizes.vocabulary * sizes.width if sizes.head_trains else 0
    last, widest = _last_layer(sizes, update, given, item)
    earlier = gradients if given.accumulates else 0
    left = earlier if given.drops_gradients else gradients
    forward = {**lasting, **activations, "logits": slices, "gradients": buckets + left}
    begins = {**lasting, **activations, "logits": slices, "gradients": buckets + head + earlier}
    ends = {
        **lasting,
        "activations, last layer left": last + WIDEST * widest,
        "gradients": gradients + buckets + sizes.largest_trained * given.accumulates,
    }
    step = {
        **lasting,
        "gradients": gradients + buckets,
        "step of the optimizer": trained // divide[2] if given.on_gpu else 2 * sizes.largest_trained // divide[2],
    }
    phases = {"forward ends": forward, "backward begins": begins, "backward ends": ends, "optimizer step": step}
    if sizes.language.checkpointed and sizes.language.has_graph:
        again = _layer_kept(sizes.language.layers[-1], sizes.language, update, item, sizes, given.autocast)
        within = again + WIDEST_AGAIN * _widest(sizes.language, update, item)
        phases["layer made again"] = {
            **lasting,
            **activations,
            "activations, layer made again": within,
            "gradients": buckets + head + earlier,
        }
    if sizes.vision is not None and sizes.vision.layers and update.patches and not sizes.vision.has_graph:
        layer = _layer_kept(sizes.vision.layers[0], sizes.vision, _seen(update), item, sizes, given.autocast)
        phases["images read"] = {**lasting, "vision tower": layer, "gradients": left + buckets}
    if rollout is not None:
        phases["rollout"] = {**lasting, **_rollout(sizes, rollout, item)}
    return MemoryPlan(phases={name: _positive(parts) for name, parts in phases.items()}, told=told)


def kept_by_layer(layer: LayerSizes, tokens: int, row_tokens: int, item: int, autocast: bool, adapter_item: int) -> int:
    """Counts the bytes that autograd keeps of a layer without shared prompts; see the top of the file.

    Args:
        layer: What it is made of.
        tokens: That go through it.
        row_tokens: Of the longest row; 0 where attention keeps no number for each pair.
        item: Bytes of an activation.
        autocast: Whether linear layers work in another type than norms.
        adapter_item: Bytes of a number of an adapter, 0 without one.
    """
    attended = 2 * layer.queries + 2 * layer.keys + (3 * layer.queries + layer.queries if layer.fused else 0)
    pairs = layer.heads * row_tokens * (item + (4 if item < 4 else 0))
    return tokens * (attended * item + pairs + _beside_attention(layer, item, autocast, adapter_item))


def _beside_attention(layer: LayerSizes, item: int, autocast: bool, adapter_item: int) -> int:
    """Bytes that a token costs in norms, linear layers and the feed-forward network."""
    total = 0
    for size, trains, root_mean_square in layer.normed:
        read = 4 if root_mean_square or autocast else item
        total += size * read + (size * (4 if autocast else item) if trains and root_mean_square else 0)
    for given in layer.inputs:
        adapters = given.adapters if given.adapters and adapter_item != item else 0
        plain = given.readers if autocast else int(given.readers > adapters)
        total += given.width * (item * plain + adapter_item * adapters * (not autocast))
        total += given.ranks * (item if autocast else adapter_item)
    return total + item * layer.feed_forward * (3 if layer.gated else 1)


def _shared_attention(layer: LayerSizes, update: PassSize, item: int) -> int:
    """Bytes of a layer's attention where completions share their prompts, see ``shared_prefix_attention``."""
    tokens = update.tokens
    repeated = tokens + update.shared_keys
    reads = layer.queries * tokens if layer.output_reader else 0
    return item * (2 * layer.queries * tokens + 2 * layer.queries * repeated + reads)


def _layer_kept(
    layer: LayerSizes, stack: StackSizes, update: PassSize, item: int, sizes: ModelSizes, cast: bool
) -> int:
    adapter = sizes.adapter_item_size
    if update.shared_keys and not layer.fused:
        beside = update.tokens * _beside_attention(layer, item, cast, adapter)
        return _shared_attention(layer, update, item) + beside
    return kept_by_layer(layer, update.tokens, update.row_tokens * stack.quadratic, item, cast, adapter)


def _stack_kept(stack: StackSizes, update: PassSize, item: int, sizes: ModelSizes, cast: bool) -> int:
    """Bytes that autograd keeps of a stack of layers at the end of the forward pass."""
    if not stack.has_graph or not stack.layers:
        return 0
    if stack.checkpointed:
        return sum(layer.width * (4 if cast else item) * update.tokens for layer in stack.layers)
    return sum(_layer_kept(layer, stack, update, item, sizes, cast) for layer in stack.layers)


def _kept(sizes: ModelSizes, update: PassSize, given: Circumstances, item: int) -> dict[str, int]:
    cast = given.autocast
    # The embeddings of the tokens, the last norm, and the states that are predicted from.
    around = update.tokens * sizes.width * (4 if cast else item) * 3 + update.labels * sizes.width * item * 2
    copies = 0
    if cast:
        stacks = [stack for stack in (sizes.language, sizes.vision) if stack is not None and stack.has_graph]
        copies = 2 * sum(layer.weights for stack in stacks for layer in stack.layers)
    parts = {
        "activations, language": _stack_kept(sizes.language, update, item, sizes, cast)
        + (around if sizes.language.has_graph else 0),
        "weights, copies of autocast": copies,
    }
    if sizes.vision is not None and update.patches:
        parts["activations, vision"] = _stack_kept(sizes.vision, _seen(update), item, sizes, cast)
    return parts


def _seen(update: PassSize) -> PassSize:
    """The pass of the vision tower."""
    return PassSize(update.patches, update.largest_image, 0)


def _widest(stack: StackSizes, update: PassSize, item: int) -> int:
    """Bytes of the widest activation of a layer."""
    return update.tokens * item * max((layer.feed_forward for layer in stack.layers), default=0)


def _last_layer(sizes: ModelSizes, update: PassSize, given: Circumstances, item: int) -> tuple[int, int]:
    """Bytes of what the layer next to the input keeps, and of its widest activation."""
    stack, seen = sizes.language, update
    if sizes.vision is not None and sizes.vision.has_graph and update.patches:
        stack, seen = sizes.vision, _seen(update)
    if not stack.layers or not stack.has_graph:
        return 0, 0
    layer = stack.layers[0]
    return _layer_kept(layer, stack, seen, item, sizes, given.autocast), _widest(stack, seen, item)


def _rollout(sizes: ModelSizes, rollout: RolloutSize, item: int) -> dict[str, int]:
    """Bytes of sampling: the larger of reading the prompts and of the last step."""
    most = rollout.prompt_tokens + -(-rollout.new_tokens // ROOM) * ROOM
    cached = [2 * layer.keys * item for layer in sizes.language.layers]
    grown = rollout.rows * most * (sum(cached) + max(cached, default=0))
    return {"keys and values": grown, "logits": DRAW_COPIES * 4 * rollout.rows * sizes.vocabulary}


def _divisors(given: Circumstances) -> tuple[int, int, int]:
    """Ranks that share weights, gradients and optimizer state."""
    by_kind = {
        "fsdp1": (True,) * 3,
        "fsdp2": (True,) * 3,
        "deepspeed_3": (True,) * 3,
        "deepspeed": (False, False, True),
    }
    shards = given.shards if given.shards is not None else by_kind.get(given.strategy, (False,) * 3)
    weights, gradients, state = (given.ranks if divided else 1 for divided in shards)
    return weights, gradients, state


def _positive(parts: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if size > 0}
