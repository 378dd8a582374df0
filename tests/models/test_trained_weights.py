import pytest
import torch
from torch import nn

from lit_vlm.functional.weight_names import canonical_name
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.models.trained_weights import plain_name, trained_weights


def load(folder, encoder, **options):
    return Backbone(str(folder), **options).load_model(encoder).model


@pytest.fixture
def plain(random_tiny_folder, random_tiny_encoder):
    return load(random_tiny_folder, random_tiny_encoder)


def test_all_weights_of_a_plain_model_are_listed_by_their_names(plain):
    found = trained_weights(plain)
    assert [
        (one.name, one.parameter is value) for one, (name, value) in zip(found, plain.named_parameters(), strict=True)
    ] == [(name, True) for name, _ in plain.named_parameters()]
    assert all(one.shape == tuple(one.parameter.shape) and one.factors is None for one in found)


def test_frozen_weights_are_not_listed(random_tiny_folder, random_tiny_encoder):
    model = load(random_tiny_folder, random_tiny_encoder, train_parts=("projector",))
    found = trained_weights(model)
    assert found
    assert all("merger" in one.name for one in found)


@pytest.mark.parametrize(("kind", "scale"), [("lora", 2.0), ("rslora", 4.0)])
def test_adapted_layers_are_listed_by_the_name_of_their_weight_with_factors_that_make_up_its_change(
    random_tiny_folder, random_tiny_encoder, plain, kind, scale
):
    adapter = AdapterSettings(kind, rank=4, alpha=8, parts=("language",))
    model = load(random_tiny_folder, random_tiny_encoder, adapter=adapter)
    found = {one.name: one for one in trained_weights(model)}
    shapes = {name: tuple(value.shape) for name, value in plain.named_parameters()}
    assert {name: one.shape for name, one in found.items()} == {name: shapes[name] for name in found}
    assert sorted(found) == sorted(
        name for name in shapes if canonical_name(name) is not None and name.endswith("_proj.weight")
    )
    name, one = next(iter(found.items()))
    assert one.parameter is None
    torch.nn.init.normal_(one.factors.outer)
    layer = model.get_submodule(name.removesuffix(".weight"))
    change = one.factors.scale * one.factors.outer @ one.factors.inner
    assert one.factors.scale == scale
    torch.testing.assert_close(change, layer.get_delta_weight("default"))


def test_parts_that_train_in_full_beside_an_adapter_bear_their_plain_names(
    random_tiny_folder, random_tiny_encoder, plain
):
    adapter = AdapterSettings(rank=2, alpha=2, train_in_full=("projector",))
    found = trained_weights(load(random_tiny_folder, random_tiny_encoder, adapter=adapter))
    names = dict(plain.named_parameters())
    full = [one for one in found if one.parameter is not None]
    assert full
    assert all("merger" in one.name and one.name in names for one in full)


def test_weights_under_a_quantised_layer_have_their_true_shape(random_tiny_folder, random_tiny_encoder, plain):
    model = load(
        random_tiny_folder,
        random_tiny_encoder,
        adapter=AdapterSettings(rank=2, alpha=2),
        quantisation=QuantisationSettings(),
    )
    shapes = {name: tuple(value.shape) for name, value in plain.named_parameters()}
    found = trained_weights(model)
    assert found
    assert all(one.shape == shapes[one.name] for one in found)


def test_learnt_magnitudes_are_refused_with_what_to_give(random_tiny_folder, random_tiny_encoder):
    model = load(random_tiny_folder, random_tiny_encoder, adapter=AdapterSettings("dora", rank=2, alpha=2))
    with pytest.raises(UserError, match=r"kind is dora.*give model\.backbone\.adapter\.kind lora or rslora"):
        trained_weights(model)


@pytest.mark.parametrize("strategy", ["deepspeed", "deepspeed_3"])
def test_gradients_that_cannot_be_reached_are_refused_with_what_to_give(strategy):
    with pytest.raises(UserError, match=r"trainer\.strategy deepspeed keeps gradients.*give trainer\.strategy ddp"):
        trained_weights(nn.Linear(2, 2), strategy)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("model.layers.0.mlp.up_proj.base_layer.weight", "model.layers.0.mlp.up_proj.weight"),
        ("_fsdp_wrapped_module.model._checkpoint_wrapped_module.norm.weight", "model.norm.weight"),
        ("model.visual.merger.modules_to_save.default.mlp.0.weight", "model.visual.merger.mlp.0.weight"),
        ("_orig_mod.model.norm.weight", "model.norm.weight"),
    ],
)
def test_names_are_freed_of_what_wrappers_write_into_them(name, plain):
    assert plain_name(name) == plain
