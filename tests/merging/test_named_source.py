"""Weights of a model under the names that all models share."""

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.merge_settings import NamePair
from lit_vlm.merging.named_source import NamedSource, renamed
from tests.merging.material import MemorySource, text_model, vlm


def test_weights_are_found_by_the_same_key_in_text_models_and_others() -> None:
    text, model = NamedSource("donor 1", text_model("text")), NamedSource("target", vlm("vlm"))
    assert set(model.names) - set(text.names) == {
        "vision_tower.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.linear_1.weight",
    }
    assert text.find("norm.weight") == "model.norm.weight"
    assert model.find("lm_head.weight") == "language_model.lm_head.weight"
    assert model.find("nothing") is None
    assert (text.layers, model.layers) == (2, 2)
    assert (text.has_outside, model.has_outside) == (False, True)
    assert str(text) == "donor 1 (text)"


def test_a_tied_head_is_found_as_the_embedding() -> None:
    source = text_model("tied", tied=True)
    source.tensors["lm_head.weight"] = torch.zeros(3, 4)
    model = NamedSource("target", source)
    assert model.is_tied
    assert "lm_head.weight" not in model.names
    assert model.find("lm_head.weight") == "model.embed_tokens.weight"


def test_names_are_brought_to_the_target_s() -> None:
    pairs = [NamePair(r"^transformer\.", "model."), NamePair("norm", "never")]
    source = MemorySource("other", {"transformer.norm.weight": torch.zeros(1)})
    assert dict(NamedSource("donor 1", source, pairs).names) == {"norm.weight": "transformer.norm.weight"}
    assert renamed("own", pairs) == "own"


def test_two_weights_of_one_name_are_refused() -> None:
    source = MemorySource("odd", {"model.norm.weight": torch.zeros(1), "norm.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"donor 1 \(odd\) has two weights for norm.weight"):
        _ = NamedSource("donor 1", source).names


def test_a_model_may_have_no_tokenizer() -> None:
    assert NamedSource("target", text_model("a", tokens=None)).tokens is None
    assert NamedSource("target", text_model("a")).tokens == {"a": 0, "b": 1, "c": 2}
