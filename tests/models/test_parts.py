import pytest
import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings, add_adapter
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.parts import PARTS, module_parts, part_of
from lit_vlm.models.tuning import summarise_parts
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY


@pytest.fixture
def model(family_folder, family):
    backbone = Backbone(str(family_folder(family)))
    return backbone.load_model(backbone.load_encoder()).model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_lies_in_a_part_of_its_kind(family, model):
    parts = module_parts(model)
    assert tuple(parts) == (("language", "head") if family in TEXT_ONLY else PARTS)
    decoder = {id(parameter) for parameter in model.get_decoder().parameters()}
    for name, parameter in model.named_parameters():
        part = part_of(name, parts)
        assert (part in ("language", "head")) == (id(parameter) in decoder or name.startswith("lm_head"))
    assert all(isinstance(model.get_submodule(name), nn.Module) for names in parts.values() for name in names)


@pytest.mark.parametrize("family", ["llava_onevision"])
def test_a_parameter_beside_the_projector_belongs_to_it(model):
    assert part_of("model.image_newline", module_parts(model)) == "projector"


def test_the_innermost_module_decides():
    parts = {"vision": ("model.visual",), "projector": ("model.visual.merger",), "language": ("model.text",)}
    assert part_of("model.visual.merger.weight", parts) == "projector"
    assert part_of("model.visual.merger2.weight", parts) == "vision"
    assert part_of("model.text", parts) == "language"


def test_what_lies_in_no_part_is_named():
    with pytest.raises(UserError, match=r"'model.audio.weight' lies in none of the parts"):
        part_of("model.audio.weight", {"language": ("model.text",), "projector": ("model.projector",)})


def test_the_parts_of_a_published_model_have_their_published_sizes():
    text = Qwen2_5_VLTextConfig(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4
    )
    vision = Qwen2_5_VLVisionConfig(hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    parts = module_parts(model)
    assert sum(summary.parameters for summary in summarise_parts(model, parts)) == 8_292_166_656
    add_adapter(model, parts, AdapterSettings(rank=16), "Qwen/Qwen2.5-VL-7B-Instruct", None)
    # Seven linear layers in each of 28, by hand: the sum of their widths on both sides, times the rank.
    key_value, width, inner = 4 * 128, 3584, 18944
    widths = 2 * (width + width) + 2 * (width + key_value) + 3 * (width + inner)
    trainable = {summary.part: summary.trainable for summary in summarise_parts(model, parts)}
    assert trainable == {"vision": 0, "projector": 0, "language": 28 * 16 * widths, "head": 0}
