from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.checkpoint_faults import (
    LOADING_FAULTS,
    explain_fault,
    refuse_incomplete,
    refuse_without_words,
)


@pytest.mark.parametrize(
    ("fault", "option", "mend"),
    [
        (OSError("no such thing\nand more"), "model.backbone.checkpoint", "give a folder, a hub id"),
        (ValueError("it contains custom code which"), "model.backbone.checkpoint", "trust_remote_code true"),
        (OSError("Error no file named model.safetensors found"), "model.backbone.checkpoint", "from safetensors only"),
        (ValueError("type `x` but does not recognize this architecture"), "model.backbone.checkpoint", "upgrade"),
        (OSError("Can't load image processor for 'x'"), "model.backbone.checkpoint", "preprocessor_config.json"),
        (SafetensorError("header too small"), "model.backbone.checkpoint", "fetch it again"),
        (ImportError("FlashAttention2 is not installed"), "model.backbone.attention", "give sdpa or eager"),
        (ValueError(""), "model.backbone.checkpoint", "ValueError"),
    ],
)
def test_each_fault_names_its_option_and_mend_in_one_line(fault, option, mend):
    told = explain_fault(fault, "some/model", "flash_attention_2")
    assert isinstance(fault, LOADING_FAULTS)
    assert told.startswith(f"{option}: ")
    assert mend in told
    assert "\n" not in told
    assert ("some/model" in told) == (option == "model.backbone.checkpoint")


def test_attention_is_not_blamed_where_none_was_asked_for():
    assert explain_fault(ImportError("FlashAttention2 is not installed"), "m", None).startswith(
        "model.backbone.checkpoint"
    )


def test_the_first_of_what_is_missing_is_named_and_the_others_counted():
    refuse_incomplete(set(), [], "m")
    with pytest.raises(UserError, match=r"'m' lacks the weight 'a' \(and 1 more\), which"):
        refuse_incomplete({"b", "a"}, [], "m")
    with pytest.raises(UserError, match=r"'c' in 'm' has shape \(1, 2\), but its config.json asks for \(2, 2\); conf"):
        refuse_incomplete({"b"}, [("c", (1, 2), (2, 2))], "m")


def test_a_tokenizer_needs_words():
    class Tokenizer(SimpleNamespace):
        def __len__(self):
            return self.size

    refuse_without_words(Tokenizer(size=3, all_special_tokens=["<a>", "<b>"]), "m")
    with pytest.raises(UserError, match="'m' has no tokenizer"):
        refuse_without_words(Tokenizer(size=2, all_special_tokens=["<a>", "<b>"]), "m")
