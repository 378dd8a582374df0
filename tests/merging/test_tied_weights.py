"""Whether a head is tied, and which head an embedding has."""

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.tied_weights import head_name, is_tied

WITH_HEAD = ["embed_tokens.weight", "lm_head.weight"]
WITHOUT = ["embed_tokens.weight"]


@pytest.mark.parametrize(
    ("configuration", "keys", "tied"),
    [
        ({"tie_word_embeddings": True}, WITHOUT, True),
        ({"tie_word_embeddings": False}, WITH_HEAD, False),
        # Files that hold both, though the configuration ties them.
        ({"tie_word_embeddings": True}, WITH_HEAD, True),
        # The text part has the flag, as vision-language models may.
        ({"text_config": {"tie_word_embeddings": True}}, WITH_HEAD, True),
        # InternVL: the outer flag counts.
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, WITHOUT, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, WITH_HEAD, False),
        ({}, WITHOUT, True),
        ({}, WITH_HEAD, False),
        # A decoder without a head.
        ({"tie_word_embeddings": False}, WITHOUT, False),
        ({"tie_word_embeddings": True}, ["norm.weight"], False),
    ],
)
def test_a_head_is_tied_as_transformers_has_it(configuration: dict, keys: list[str], tied: bool) -> None:
    assert is_tied(configuration, keys) is tied


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("model.language_model.embed_tokens.weight", "lm_head.weight"),
        ("model.text_model.embed_tokens.weight", "lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
    ],
)
def test_a_head_is_named_as_its_family_does(embedding: str, head: str) -> None:
    assert head_name(embedding) == head


@pytest.mark.parametrize("name", ["embed_tokens.weight", "model.norm.weight"])
def test_a_decoder_without_a_head_cannot_be_untied(name: str) -> None:
    with pytest.raises(UserError, match="no head that belongs to"):
        head_name(name)
