import pytest
import torch
from torch import nn

from lit_vlm.interfaces.capabilities import PartSummary
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.parts import PARTS, module_parts, part_of
from lit_vlm.models.tuning import head_is_tied, linear_layers, require_parts, summarise_parts, train_only
from lit_vlm.models.vision_language_model import GenerationSettings


@pytest.fixture
def load(random_tiny_folder, random_tiny_encoder):
    """Loads the random tiny model with other settings."""

    def load(**options):
        return Backbone(str(random_tiny_folder), **options).load_model(random_tiny_encoder)

    return load


@pytest.mark.parametrize("trained", [("vision",), ("projector",), ("language",), ("vision", "language", "head")])
def test_only_the_parts_named_get_gradients(load, random_tiny_encoder, image_sample, trained):
    model = load(train_parts=trained).train()
    model.score(random_tiny_encoder.encode([image_sample])).log_probs.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (model.part_of(name) in trained), name


def test_frozen_parts_stay_in_evaluation_mode_and_the_projector_is_apart_from_the_vision_that_holds_it(load):
    model = load(train_parts=("projector",))
    for mode in (True, False, True):
        model.train(mode)
        inner = model.model.model
        assert inner.visual.merger.mlp[0].training == mode
        assert not any(module.training for module in inner.visual.blocks.modules())
        assert not any(module.training for module in inner.language_model.modules())


def test_the_dropout_of_a_frozen_part_is_off(load, random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode([image_sample])
    frozen = load(train_parts=("projector",)).train()
    free = load().train()
    for model in (frozen, free):
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5

    def differ(model):
        return not torch.equal(model.score(batch).log_probs, model.score(batch).log_probs)

    assert differ(free)
    assert not differ(frozen)


def test_dropout_is_off_where_it_is_not_wanted(load, random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode([image_sample])
    model = load(gradient_checkpointing=True)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    model.dropout = False
    model.train()
    first = model.score(batch).log_probs
    assert first.requires_grad
    assert torch.equal(first, model.score(batch).log_probs)
    # Layers checkpoint in training mode only.
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert any(layer.training for layer in layers)


def test_parts_that_the_model_lacks_are_refused():
    parts = {"language": ("model",), "head": ("lm_head",)}
    for named in (("vision",), ()):
        with pytest.raises(UserError, match="the parts of this model are language, head"):
            require_parts(parts, named, "model.backbone.train_parts")


def test_a_tied_head_cannot_be_trained_alone(random_tiny_model):
    assert head_is_tied(random_tiny_model.model)
    with pytest.raises(UserError, match="belong to the language part"):
        train_only(random_tiny_model.model, random_tiny_model.parts, ("head",))


def test_gradients_are_checkpointed_where_layers_train_only(load, random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode([image_sample])
    plain, saving = (load(train_parts=("language",), gradient_checkpointing=on).train() for on in (False, True))
    layers = [module for module in saving.model.modules() if hasattr(module, "gradient_checkpointing")]
    assert {part_of(name, saving.parts) for name, module in saving.model.named_modules() if module in layers} >= {
        "vision",
        "language",
    }
    for name, module in saving.model.named_modules():
        if hasattr(module, "gradient_checkpointing") and name.startswith("model."):
            assert module.gradient_checkpointing == (part_of(name, saving.parts) == "language"), name
    calls = []
    for model in (plain, saving):
        model.model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        model.score(batch).log_probs.sum().backward()
        calls.append("/")
    assert calls == [1, "/", 1, 1, "/"]
    for (name, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, msg=name)


@pytest.mark.parametrize("options", [{"train_parts": ("language",)}, {"adapter": AdapterSettings()}])
def test_a_frozen_tower_keeps_no_graph_where_gradients_are_checkpointed(
    options, load, random_tiny_encoder, image_sample
):
    model = load(gradient_checkpointing=True, **options).train()
    features = model.encode_media(random_tiny_encoder.encode_prompts([image_sample]))
    assert not features.has_graph
    model.score(random_tiny_encoder.encode([image_sample])).log_probs.sum().backward()
    assert all((value.grad is not None) == value.requires_grad for value in model.parameters())


def test_a_frozen_language_part_is_checkpointed_on_the_way_to_the_projector(load, random_tiny_encoder, image_sample):
    model = load(train_parts=("projector",), gradient_checkpointing=True).train()
    calls = {"language": 0, "vision": 0}
    inner = model.model.model
    for part, layer in (("language", inner.language_model.layers[0]), ("vision", inner.visual.blocks[0])):
        layer.mlp.register_forward_pre_hook(lambda *_, part=part: calls.update({part: calls[part] + 1}))
    model.score(random_tiny_encoder.encode([image_sample])).log_probs.sum().backward()
    assert calls == {"language": 2, "vision": 1}
    assert inner.language_model.layers[0].training
    assert not inner.language_model.layers[0].self_attn.training


def test_generation_uses_the_cache_and_checkpoints_nothing(load, random_tiny_encoder, image_sample):
    model = load(gradient_checkpointing=True).train()
    lengths = []
    model.model.model.language_model.layers[0].mlp.register_forward_hook(
        lambda module, given, _: lengths.append(given[0].shape[1])
    )
    prompts = random_tiny_encoder.encode_prompts([image_sample])
    (ids,) = model.generate(prompts, GenerationSettings(max_new_tokens=4))
    assert lengths == [prompts.input_ids.shape[1], *[1] * (len(ids) - 1)]
    assert model.model.model.language_model.layers[0].training


def test_parameters_are_counted_by_part(load):
    model = load(train_parts=("projector",))
    found = summarise_parts(model.model, model.parts)
    assert [summary.part for summary in found] == list(PARTS)
    assert sum(summary.parameters for summary in found) == sum(p.numel() for p in model.parameters())
    merger = sum(parameter.numel() for parameter in model.model.model.visual.merger.parameters())
    assert [summary for summary in found if summary.trainable] == [PartSummary("projector", merger, merger)]


def test_what_trains_in_full_beside_an_adapter_is_counted_once(load):
    base = load()
    plain = {summary.part: summary.parameters for summary in summarise_parts(base.model, base.parts)}
    model = load(adapter=AdapterSettings(rank=2, train_in_full=("projector",)))
    found = {summary.part: summary for summary in summarise_parts(model.model, model.parts)}
    assert found["projector"].parameters == found["projector"].trainable == plain["projector"]
    assert found["vision"] == PartSummary("vision", plain["vision"], 0)
    assert found["language"].parameters == plain["language"] + found["language"].trainable


def test_linear_layers_lie_in_parts(random_tiny_model):
    parts = module_parts(random_tiny_model.model)
    names = linear_layers(random_tiny_model.model)
    assert "lm_head" in names
    assert {part_of(name, parts) for name in names} == set(PARTS)
    assert all(isinstance(random_tiny_model.model.get_submodule(name), nn.Linear) for name in names)
