"""Heads that share the embedding's weight, which may be tied in one model of a merge and not in another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lit_vlm.functional.decoder_settings import TEXT_PARTS
from lit_vlm.functional.weight_names import canonical_name
from lit_vlm.interfaces.errors import UserError

FLAG = "tie_word_embeddings"
EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"


def is_tied(configuration: Mapping[str, Any], keys: Collection[str]) -> bool:
    """Tells whether a model's head is its embedding.

    The outer flag counts before the text part's, as transformers has it. A checkpoint without a head is tied unless
    all flags deny it: then it is a decoder without a head.

    Args:
        configuration: What ``config.json`` says.
        keys: Names of the checkpoint's weights, canonical where they lie in the decoder.
    """
    parts = [configuration, *(configuration.get(part) or {} for part in TEXT_PARTS)]
    flags = [bool(part[FLAG]) for part in parts if part.get(FLAG) is not None]
    if HEAD not in keys:
        return EMBEDDING in keys and (any(flags) or not flags)
    return bool(flags) and flags[0]


def head_name(embedding: str) -> str:
    """Names on disk the head that belongs to an embedding.

    Args:
        embedding: Name of the embedding's weight on disk.

    Raises:
        UserError: The embedding's name is none that a model with a head has.

    Example:
        >>> head_name("language_model.model.embed_tokens.weight")
        'language_model.lm_head.weight'
        >>> head_name("model.language_model.embed_tokens.weight")
        'lm_head.weight'
    """
    outer = embedding.removesuffix(EMBEDDING)
    if canonical_name(embedding) != EMBEDDING or not outer:
        raise UserError(f"tied: untie: there is no head that belongs to {embedding}; merge into a model with a head")
    return f"{'language_model.' if outer == 'language_model.model.' else ''}{HEAD}"
