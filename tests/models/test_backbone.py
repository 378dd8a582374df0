from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.models.tiny_vlm import TINY_FOLDER


def test_nothing_is_read_before_it_is_asked_for():
    assert Backbone("/nowhere/at/all").checkpoint == "/nowhere/at/all"


def test_a_folder_is_loaded_with_its_weights(random_tiny_folder, random_tiny_encoder):
    from transformers import AutoModelForImageTextToText

    ours = Backbone(str(random_tiny_folder)).load_model(random_tiny_encoder).model.state_dict()
    plain = AutoModelForImageTextToText.from_pretrained(random_tiny_folder).state_dict()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


def test_new_weights_depend_on_the_seed_alone(random_tiny_folder, random_tiny_encoder):
    backbone = Backbone(str(random_tiny_folder), from_scratch=True)
    first, again, other = (
        backbone.load_model(random_tiny_encoder, seed).model.get_input_embeddings().weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_take_the_type_asked_for(random_tiny_folder, random_tiny_encoder):
    model = Backbone(str(random_tiny_folder), dtype="bfloat16").load_model(random_tiny_encoder).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.fixture
def random_text_folder(tmp_path, random_tiny_encoder):
    """A tiny text-only Qwen2 with random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = random_tiny_encoder.tokenizer
    configuration = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(configuration).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(random_tiny_encoder.processor.chat_template)
    return tmp_path


def test_a_text_only_model_is_loaded_too(random_text_folder):
    backbone = Backbone(str(random_text_folder))
    encoder = backbone.load_encoder()
    assert encoder.media_token_ids == []
    assert type(backbone.load_model(encoder).model).__name__ == "Qwen2ForCausalLM"


def test_pixel_bounds_change_the_number_of_image_tokens(random_tiny_folder, make_sample):
    counts = []
    for bounds in ({}, {"max_pixels": 32 * 32}, {"min_pixels": 96 * 96}):
        encoder = Backbone(str(random_tiny_folder), **bounds).load_encoder()
        batch = encoder.encode([make_sample("a", "1")])
        counts.append(int(batch.visual["image_grid_thw"].prod()) // 4)
    assert counts == [16, 4, 36]


@pytest.mark.parametrize("checkpoint", ["/nowhere/at/all", "./missing", "runs/a/b", "misspelt"])
def test_a_missing_checkpoint_names_the_option(checkpoint):
    with pytest.raises(UserError, match=r"model\.backbone\.checkpoint"):
        Backbone(checkpoint).load_encoder()


def test_weights_that_are_not_safetensors_are_refused(random_tiny_folder, random_tiny_encoder, tmp_path):
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(random_tiny_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.backbone\.checkpoint"):
        Backbone(str(folder)).load_model(random_tiny_encoder)


@pytest.fixture
def damaged(random_tiny_folder, tmp_path):
    """A copy of the random tiny model whose weights a test may change."""
    import shutil

    shutil.copytree(random_tiny_folder, tmp_path / "damaged")
    return tmp_path / "damaged"


LAYER = "layers.0.mlp.gate_proj.weight"


def name_of_layer(state):
    """Finds a weight of the language part, whose names on disk differ between families."""
    return next(name for name in state if name.endswith(LAYER) and "visual" not in name)


@pytest.mark.parametrize("quantisation", [None, QuantisationSettings()], ids=["plain", "nf4"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop(name_of_layer(state)), rf"lacks the weight '\S+\.{LAYER}', which"),
        (lambda state: [state.pop(name) for name in list(state) if "layers.1." in name], r"and 11 more\), which"),
        (
            lambda state: state.update({name_of_layer(state): torch.zeros(3, 3)}),
            rf"{LAYER}' in .* has shape \(3, 3\), but",
        ),
    ],
)
def test_weights_are_never_drawn_in_silence(damaged, random_tiny_encoder, change, told, quantisation):
    from safetensors.torch import load_file, save_file

    state = load_file(damaged / "model.safetensors")
    change(state)
    save_file(state, damaged / "model.safetensors", metadata={"format": "pt"})
    adapter = None if quantisation is None else AdapterSettings(rank=2)
    with pytest.raises(UserError, match=told):
        Backbone(str(damaged), adapter=adapter, quantisation=quantisation).load_model(random_tiny_encoder)


def test_a_weight_file_that_is_cut_short_is_told(damaged, random_tiny_encoder):
    weights = damaged / "model.safetensors"
    for length in (0, 20, weights.stat().st_size // 2):
        weights.write_bytes(weights.read_bytes()[:length] if length else b"")
        with pytest.raises(UserError, match="is damaged or cut short"):
            Backbone(str(damaged)).load_model(random_tiny_encoder)


def test_a_checkpoint_without_tokenizer_is_told(damaged, random_text_folder):
    for folder in (damaged, random_text_folder):
        for path in folder.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(UserError, match=r"has no tokenizer; put tokenizer\.json"):
            Backbone(str(folder)).load_encoder()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train_parts": ("head",)}, "belong to the language part"),
        ({"adapter": AdapterSettings(modules="nothing")}, "choose no linear layer"),
        ({"adapter": AdapterSettings(load="nowhere")}, r"there is no adapter_config\.json"),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_its_weights_are_read(damaged, random_tiny_encoder, options, told):
    (damaged / "model.safetensors").unlink()
    with pytest.raises(UserError, match=told):
        Backbone(str(damaged), **options).load_model(random_tiny_encoder)


def test_an_adapter_over_the_checkpoint_s_own_type(random_tiny_folder, random_tiny_encoder):
    for quantisation in (None, QuantisationSettings(kind="int8")):
        backbone = Backbone(str(random_tiny_folder), dtype="auto", adapter=AdapterSettings(), quantisation=quantisation)
        assert backbone.load_model(random_tiny_encoder).trained_parts == {"language"}
    with pytest.raises(UserError, match="needs a type to compute in"):
        replace(backbone, quantisation=QuantisationSettings()).load_model(random_tiny_encoder)


@pytest.mark.parametrize("attention", ["spda", "flash_attention_2"])
def test_an_attention_that_cannot_be_used_names_its_option(random_tiny_folder, random_tiny_encoder, attention):
    for adapter in (None, AdapterSettings()):
        backbone = Backbone(str(random_tiny_folder), attention=attention, adapter=adapter)
        with pytest.raises(UserError, match=rf"^model\.backbone\.attention: '{attention}' cannot be used"):
            backbone.load_model(random_tiny_encoder)


def test_a_folder_has_no_revision(random_tiny_folder):
    with pytest.raises(UserError, match=r"model\.backbone\.revision is 'main', but the folder"):
        Backbone(str(random_tiny_folder), revision="main").load_encoder()


def test_bounds_that_leave_no_pixels_are_refused(random_tiny_folder, random_text_folder, family_folder):
    with pytest.raises(UserError, match="enlarge images to 1024 pixels and reduce them to 200; give both"):
        Backbone(str(random_tiny_folder), max_pixels=200).load_encoder()
    with pytest.raises(UserError, match="which reads text only; leave them out"):
        Backbone(str(random_text_folder), max_pixels=2000).load_encoder()
    with pytest.raises(UserError, match=r"an image size of its own, \{'shortest_edge': 32\}; leave them out"):
        Backbone(str(family_folder("llava")), max_pixels=2000).load_encoder()


def test_a_gguf_file_that_is_not_there_is_named(random_tiny_folder):
    with pytest.raises(UserError, match=r"model\.backbone\.checkpoint: cannot load .* named model\.gguf"):
        Backbone(str(random_tiny_folder), gguf_file="model.gguf").load_encoder()


def test_the_word_tiny_means_the_bundled_folder():
    assert Backbone().source == str(TINY_FOLDER)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"train_parts": ("vision",), "adapter": AdapterSettings()}, r"adapter\.parts and train_in_full"),
        ({"quantisation": QuantisationSettings()}, r"add model\.backbone\.adapter"),
        ({"from_scratch": True, "adapter": AdapterSettings()}, "leave one"),
        ({"from_scratch": True, "dtype": "auto"}, "name a type"),
        ({"min_pixels": 2, "max_pixels": 1}, "min_pixels is 2, above max_pixels 1"),
        ({"min_pixels": 0}, "min_pixels is 0; give at least 1"),
        ({"max_pixels": -1}, "max_pixels is -1; give at least 1"),
        ({"max_video_frames": 0}, "max_video_frames is 0; give at least 1"),
        (
            {"quantisation": QuantisationSettings(), "adapter": AdapterSettings(), "gguf_file": "model.gguf"},
            r"cannot read model\.backbone\.gguf_file",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        Backbone(**settings)


def test_parts_and_adapter_reach_the_model(random_tiny_folder, random_tiny_encoder):
    model = Backbone(str(random_tiny_folder), train_parts=("projector",)).load_model(random_tiny_encoder)
    assert model.trained_parts == {"projector"}
    adapted = Backbone(str(random_tiny_folder), adapter=AdapterSettings(rank=2)).load_model(random_tiny_encoder)
    assert adapted.trained_parts == {"language"}
    assert adapted.model.peft_config["default"].r == 2


@pytest.mark.parametrize("export", ["adapter", "merged"])
def test_an_export_is_the_adapter_or_a_whole_model(random_tiny_folder, random_tiny_encoder, tmp_path, export):
    backbone = Backbone(str(random_tiny_folder), adapter=AdapterSettings(rank=2, export=export))
    backbone.save(backbone.load_model(random_tiny_encoder), tmp_path)
    assert (tmp_path / "model.safetensors").exists() == (export == "merged")
    assert (tmp_path / "adapter_model.safetensors").exists() == (export == "adapter")


def test_a_text_only_model_has_no_vision_to_train(random_text_folder):
    backbone = Backbone(str(random_text_folder), train_parts=("vision",))
    with pytest.raises(UserError, match="parts of this model are language, head"):
        backbone.load_model(backbone.load_encoder())


def test_a_text_only_model_is_adapted_and_quantised(random_text_folder):
    backbone = Backbone(str(random_text_folder), adapter=AdapterSettings(rank=2), quantisation=QuantisationSettings())
    model = backbone.load_model(backbone.load_encoder())
    assert model.trained_parts == {"language"}
