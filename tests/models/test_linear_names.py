import json

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.linear_names import linear_names
from lit_vlm.models.tiny_vlm import TINY_FOLDER


def test_the_decoder_of_a_vlm_lies_deeper_in_memory():
    names = linear_names(TINY_FOLDER, ["model.layers.0.self_attn.q_proj.weight", "visual.merger.mlp.0.weight"])
    assert names == {
        "model.layers.0.self_attn.q_proj.weight": "model.language_model.layers.0.self_attn.q_proj.weight",
        "visual.merger.mlp.0.weight": "model.visual.merger.mlp.0.weight",
    }


def test_a_text_model_has_the_same_names_on_disk(tmp_path):
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.device("meta"):
        Qwen2ForCausalLM(Qwen2Config(vocab_size=11, **size, **heads)).config.save_pretrained(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    assert linear_names(tmp_path, [name, "unknown"]) == {name: name}


def test_biases_norms_and_embeddings_are_no_linear_weights():
    others = [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.input_layernorm.weight",
        "model.embed_tokens.weight",
        "visual.patch_embed.proj.weight",
    ]
    assert linear_names(TINY_FOLDER, others) == {}


def test_an_unknown_model_is_told_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing_known"}))
    with pytest.raises(UserError, match="its model cannot be built") as told:
        linear_names(tmp_path, [])
    assert "\n" not in str(told.value)
