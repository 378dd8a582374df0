from collections import Counter

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.parts import part_of
from lit_vlm.models.quantisation import QuantisationSettings, keep_differentiable
from lit_vlm.models.tuning import linear_layers, summarise_parts

KINDS = {"nf4": Linear4bit, "int8": Linear8bitLt}


@pytest.fixture
def load(random_tiny_folder, random_tiny_encoder):
    """Loads the random tiny model quantised, with an adapter."""

    def load(rank=4, gradient_checkpointing=False, **settings):
        backbone = Backbone(
            str(random_tiny_folder),
            adapter=AdapterSettings(rank=rank),
            quantisation=QuantisationSettings(**settings),
            gradient_checkpointing=gradient_checkpointing,
        )
        return backbone.load_model(random_tiny_encoder)

    return load


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [("language",), ("vision", "language")])
def test_the_linear_layers_of_the_parts_are_quantised_and_no_other(load, kind, parts):
    model = load(kind=kind, parts=parts)
    names = [name for name in linear_layers(model.model) if ".lora_" not in name]
    for name in names:
        quantised = isinstance(model.model.get_submodule(name), KINDS[kind])
        assert quantised == (part_of(name, model.parts) in parts), name
    assert len(Counter(part_of(name, model.parts) for name in names)) == 4


@pytest.mark.parametrize("settings", [{"kind": "nf4"}, {"kind": "nf4", "double": False}, {"kind": "int8"}])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore:.*quantization.*")
def test_steps_lower_the_loss_also_after_evaluation(
    load, random_tiny_encoder, image_sample, settings, gradient_checkpointing
):
    batch = random_tiny_encoder.encode([image_sample])
    model = load(gradient_checkpointing=gradient_checkpointing, **settings)
    frozen = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    with torch.no_grad():
        before = model.eval().score(batch).log_probs.mean()  # a layer may repack its weights here
    model.train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    for _ in range(3):
        loss = -model.score(batch).log_probs.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert model.eval().score(batch).log_probs.mean() > before + 0.1
    for name, value in model.named_parameters():
        assert name not in frozen or torch.equal(value, frozen[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_are_near_the_plain_ones(load, random_tiny_model, random_tiny_encoder, image_sample, kind):
    batch = random_tiny_encoder.encode([image_sample])
    plain = random_tiny_model.score(batch).log_probs
    with torch.no_grad():
        found = load(kind=kind).eval().score(batch).log_probs
    assert 0 < (found - plain).abs().max() < 1.0


def test_packed_weights_are_counted_as_what_they_stand_for(load, random_tiny_model):
    plain = {part.part: part.parameters for part in summarise_parts(random_tiny_model.model, random_tiny_model.parts)}
    model = load()
    for part in summarise_parts(model.model, model.parts):
        assert part.parameters - part.trainable == plain[part.part]


def test_the_settings_reach_the_layers(load):
    layer = load(double=False, compute_dtype="bfloat16", storage="float32").model.model.language_model.layers[0]
    weight = layer.mlp.up_proj.base_layer.weight
    assert layer.mlp.up_proj.base_layer.compute_dtype == torch.bfloat16
    assert weight.dtype == torch.float32
    assert not weight.quant_state.nested
    assert load().model.model.language_model.layers[0].mlp.up_proj.base_layer.weight.quant_state.nested


@pytest.mark.parametrize("setting", [{"double": False}, {"compute_dtype": "bfloat16"}, {"storage": "bfloat16"}])
def test_what_eight_bits_would_pass_by_is_refused(setting):
    QuantisationSettings(**setting)
    with pytest.raises(UserError, match=f"{next(iter(setting))} is for kind nf4"):
        QuantisationSettings(kind="int8", **setting)


def test_a_type_to_compute_in_is_needed():
    with pytest.raises(UserError, match=r"give model\.backbone\.dtype"):
        QuantisationSettings().configuration("auto", [])


def test_layers_keep_a_format_that_has_a_gradient():
    layer = Linear4bit(4, 4)
    layer.support_avx512bf16_for_cpu = True
    keep_differentiable(torch.nn.Sequential(layer))
    assert not layer.support_avx512bf16_for_cpu
