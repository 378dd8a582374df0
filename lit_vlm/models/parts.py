"""Names the parts of a model: vision, projector, language, head.

The names of modules differ between families; transformers tells where the decoder, the vision tower and the head are,
and what lies outside them and carries one of a few customary names is the projector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from torch import nn

from lit_vlm.interfaces.errors import UserError

Part = Literal["vision", "projector", "language", "head"]
PARTS: tuple[Part, ...] = get_args(Part)

PROJECTOR_NAMES = ("merger", "deepstack_merger_list", "multi_modal_projector", "connector", "projector", "aligner")


def module_parts(model: Any) -> dict[Part, tuple[str, ...]]:
    """Finds the modules of each part.

    Args:
        model: A Hugging Face image-text-to-text or causal language model.

    Returns:
        Part -> names of its outermost modules in memory, such as ``model.visual``; a part that the model lacks, such
        as vision in a text-only model, is absent. A projector may lie within the vision tower, and is then a part of
        its own.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[Part, tuple[str, ...]] = {}
    decoder = names[id(model.get_decoder())]
    vision = _vision_tower(model, names)
    projectors = tuple(
        name
        for name in names.values()
        if name.rpartition(".")[2] in PROJECTOR_NAMES and not _lies_within(name, (decoder,))
    )
    if vision:
        found["vision"] = (vision,)
    if projectors:
        found["projector"] = tuple(
            name for name in projectors if not _lies_within(name, [other for other in projectors if other != name])
        )
    found["language"] = (decoder,)
    found["head"] = (names[id(model.get_output_embeddings())],)
    return found


def part_of(name: str, parts: Mapping[Part, tuple[str, ...]]) -> Part:
    """Tells which part a module or parameter belongs to: that of the longest module name which holds it.

    A parameter that stands alone beside the projector, such as the embedding that ends an image's line, belongs to it.

    Raises:
        UserError: It lies in no part.
    """
    holders = [(len(prefix), part) for part, prefixes in parts.items() for prefix in prefixes if _is_in(name, prefix)]
    if not holders and name.rpartition(".")[0] in {prefix.rpartition(".")[0] for prefix in parts.get("projector", ())}:
        return "projector"
    if not holders:
        raise UserError(
            f"{name!r} lies in none of the parts {dict(parts)} of this model; its family needs a file in "
            "lit_vlm/models/families"
        )
    return max(holders)[1]


def _vision_tower(model: nn.Module, names: Mapping[int, str]) -> str | None:
    get_encoder = getattr(model, "get_encoder", None)
    tower = get_encoder(modality="image") if get_encoder is not None else None
    name = names.get(id(tower))
    return name or None


def _is_in(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _lies_within(name: str, prefixes: Iterable[str]) -> bool:
    return any(_is_in(name, prefix) for prefix in prefixes)
