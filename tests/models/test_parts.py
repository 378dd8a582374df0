import pytest
from torch import nn

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.parts import PARTS, module_parts, part_of
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
