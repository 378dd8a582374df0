"""Names of weights: canonical, by place, and of real checkpoints of each family."""

import pytest

from lit_vlm.functional.weight_names import canonical_name, decoder_layers, vision_name, weight_key, weight_place

INSIDE = ["layers.3.self_attn.q_proj.weight", "embed_tokens.weight", "norm.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    ("decoder", "head"),
    [
        ("model.", ""),  # text models, and Qwen2-VL and Qwen2.5-VL on disk
        ("model.language_model.", ""),  # in memory, and Qwen3-VL on disk
        ("language_model.model.", "language_model."),  # LLaVA, InternVL and Gemma 3 on disk
        ("model.text_model.", ""),  # Idefics3, SmolVLM
        ("", ""),  # a decoder without its head
    ],
)
def test_each_form_of_a_name_leads_to_the_canonical_one(decoder: str, head: str) -> None:
    names = [*(decoder + inside for inside in INSIDE[:3]), head + INSIDE[3]]
    assert [canonical_name(name) for name in names] == INSIDE


@pytest.mark.parametrize("name", INSIDE)
def test_a_canonical_name_is_its_own(name: str) -> None:
    assert canonical_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "visual.blocks.0.attn.qkv.weight",
        "model.visual.merger.ln_q.weight",
        "vision_tower.encoder.layers.0.mlp.fc1.weight",
        "model.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.x.weight",
        "xlm_head.weight",
    ],
)
def test_what_lies_outside_the_decoder_has_no_canonical_name(name: str) -> None:
    assert canonical_name(name) is None


def test_names_outside_the_decoder_agree_on_disk_and_in_memory() -> None:
    assert vision_name("model.visual.merger.ln_q.weight") == vision_name("visual.merger.ln_q.weight")
    old = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert vision_name(old) == vision_name("model.vision_tower.encoder.layers.0.mlp.fc1.weight")


def test_weights_that_are_the_same_have_the_same_key() -> None:
    assert weight_key("language_model.lm_head.weight") == weight_key("lm_head.weight") == "lm_head.weight"
    assert weight_key("model.image_newline") == weight_key("image_newline") == "image_newline"


def test_layers_are_those_of_the_decoder_alone() -> None:
    assert decoder_layers(["model.layers.11.a.weight", "visual.blocks.31.a.weight", "model.norm.weight"]) == 12
    assert decoder_layers(["vision_tower.encoder.layers.40.mlp.fc1.weight"]) == 0
    assert decoder_layers([]) == 0


@pytest.mark.parametrize(
    ("name", "group", "layer"),
    [
        ("model.layers.3.self_attn.q_proj.bias", "attn", 3),
        ("model.language_model.layers.0.self_attn.q_norm.weight", "norm", 0),
        ("model.layers.1.post_attention_layernorm.weight", "norm", 1),
        ("model.layers.1.pre_feedforward_layernorm.weight", "norm", 1),
        ("model.layers.2.mlp.gate_proj.weight", "mlp", 2),
        ("model.layers.2.mlp.experts.7.down_proj.weight", "mlp", 2),
        ("model.layers.2.mlp.experts.gate_up_proj", "mlp", 2),
        ("model.layers.2.mlp.gate.weight", "other", 2),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "attn", 0),
        ("language_model.model.embed_tokens.weight", "embed", None),
        ("language_model.model.norm.weight", "final_norm", None),
        ("language_model.lm_head.weight", "head", None),
        ("visual.blocks.0.mlp.up_proj.weight", "vision", None),
        ("model.visual.merger.mlp.0.weight", "projector", None),
        ("model.visual.deepstack_merger_list.0.norm.weight", "projector", None),
        ("multi_modal_projector.mm_input_projection_weight", "projector", None),
        ("model.connector.modality_projection.proj.weight", "projector", None),
        ("image_newline", "projector", None),
    ],
)
def test_a_weight_has_a_place(name: str, group: str, layer: int | None) -> None:
    place = weight_place(name, 4)
    assert (place.name, place.group, place.layer, place.layers) == (name, group, layer, 4)
