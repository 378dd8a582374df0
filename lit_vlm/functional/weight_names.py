"""Reads names of weights: which is the same weight in another model, and which place it has in its own.

A text model calls its decoder ``model.layers``; vision-language models put it elsewhere, and many call it otherwise in
memory than on disk. All forms lead to one *canonical* name: ``layers.3.self_attn.q_proj.weight``,
``embed_tokens.weight``, ``norm.weight`` or ``lm_head.weight``.

Source:
    Names as transformers 5.23 saves and loads each family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lit_vlm.interfaces.weights import WeightGroup, WeightPlace

_DECODER = re.compile(
    r"(?:model\.language_model\.model\.|model\.language_model\.|language_model\.model\.|language_model\."
    r"|model\.text_model\.|text_model\.|model\.|)"
    r"(?P<canonical>(?:layers\.(?P<layer>\d+)|embed_tokens|norm|lm_head)\..+)"
)
_CONSTANT = "rotary_emb.inv_freq"
"""Older text checkpoints save it in each layer; it follows from the configuration."""

_PROJECTOR = re.compile(
    r"(?:^|\.)(?:merger|deepstack_merger_list|multi_modal_projector|mm_projector|connector|modality_projection|mlp1"
    r"|image_newline|embed_vision)(?:\.|$)"
)
_ROUTER = re.compile(r"(?:^|\.)(?:router|gate|shared_expert_gate)(?:\.|$)")
_NORM = re.compile(r"norm\w*\.(?:weight|bias)$")
_ATTENTION = re.compile(r"(?:^|[._])(?:attn|attention)\.")
_MLP = re.compile(r"(?:^|\.)(?:mlp|feed_forward|block_sparse_moe|experts)\.")


def canonical_name(name: str) -> str | None:
    """Names a weight of a decoder as all models do.

    Args:
        name: On disk or in memory, of a text model or of a vision-language model; also a canonical name.

    Returns:
        The canonical name; None for what lies outside the decoder, and for constants that are no weights.

    Example:
        >>> canonical_name("language_model.model.layers.3.self_attn.q_proj.weight")
        'layers.3.self_attn.q_proj.weight'
        >>> canonical_name("model.visual.blocks.3.attn.qkv.weight")
    """
    found = _DECODER.fullmatch(name)
    return None if found is None or name.endswith(_CONSTANT) else found["canonical"]


def vision_name(name: str) -> str:
    """Names a weight outside the decoder alike on disk and in memory.

    Args:
        name: On disk or in memory.

    Returns:
        The name without a leading ``model.``, and without the level ``vision_model`` that vision towers had in older
        versions of transformers.

    Example:
        >>> vision_name("model.vision_tower.vision_model.post_layernorm.weight")
        'vision_tower.post_layernorm.weight'
    """
    return name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")


def weight_key(name: str) -> str:
    """Names a weight, in the decoder or outside, so that the same weight of two models has the same name."""
    return canonical_name(name) or vision_name(name)


def decoder_layers(names: Iterable[str]) -> int:
    """Counts the layers of the decoder that some weights make up; 0 where there are none.

    Example:
        >>> decoder_layers(["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"])
        2
    """
    return 1 + max((layer for name in names if (layer := _layer_of(name)) is not None), default=-1)


def weight_place(name: str, layers: int) -> WeightPlace:
    """Says what a weight is for, and in which layer it lies.

    Args:
        name: On disk or in memory.
        layers: Layers of the decoder, as ``decoder_layers`` counts them.

    Example:
        >>> weight_place("model.language_model.layers.1.input_layernorm.weight", 4)
        WeightPlace(name='model.language_model.layers.1.input_layernorm.weight', group='norm', layer=1, layers=4)
    """
    return WeightPlace(name, _group_of(name), _layer_of(name), layers)


def _layer_of(name: str) -> int | None:
    found = _DECODER.fullmatch(name)
    return None if found is None or found["layer"] is None else int(found["layer"])


def _group_of(name: str) -> WeightGroup:
    found = _DECODER.fullmatch(name)
    if found is None:
        return "projector" if _PROJECTOR.search(name) else "vision"
    inside: str = found["canonical"]
    if found["layer"] is None:
        outside: dict[str, WeightGroup] = {"embed_tokens": "embed", "norm": "final_norm", "lm_head": "head"}
        return outside[inside.split(".")[0]]
    kinds: tuple[tuple[re.Pattern[str], WeightGroup], ...] = (
        (_NORM, "norm"),
        (_ROUTER, "other"),
        (_ATTENTION, "attn"),
        (_MLP, "mlp"),
    )
    return next((group for pattern, group in kinds if pattern.search(inside)), "other")
