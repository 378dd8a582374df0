import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import (
    AdapterSettings,
    adapted_layers,
    adapter_state,
    has_adapter,
    load_state,
    merge_adapter,
    read_state,
    save_adapter,
)
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.parts import part_of
from lit_vlm.models.quantisation import QuantisationSettings
from tests.models.family_checkpoints import FAMILIES


@pytest.fixture
def backbone(random_tiny_folder):
    """Describes the random tiny model with an adapter."""

    def make(quantisation=None, **settings):
        adapter = AdapterSettings(**{"rank": 4, **settings})
        return Backbone(str(random_tiny_folder), adapter=adapter, quantisation=quantisation)

    return make


@pytest.fixture
def batch(random_tiny_encoder, make_sample):
    return random_tiny_encoder.encode([make_sample("a", "1"), make_sample("b b b", "2", images=0)])


@pytest.fixture
def trained(random_tiny_encoder, batch):
    """Loads a model and takes a few steps."""

    def train(backbone, steps=2):
        model = backbone.load_model(random_tiny_encoder).train()
        optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
        for _ in range(steps):
            (-model.score(batch).log_probs.mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()

    return train


def scores(model, batch):
    with torch.no_grad():
        return model.eval().score(batch).log_probs


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("initialisation", ["kaiming", "gaussian"])
def test_a_new_adapter_changes_nothing(backbone, random_tiny_model, random_tiny_encoder, batch, kind, initialisation):
    model = backbone(kind=kind, initialisation=initialisation).load_model(random_tiny_encoder)
    torch.testing.assert_close(
        scores(model, batch), scores(random_tiny_model, batch), atol=0 if kind != "dora" else 1e-5, rtol=0
    )


def test_the_language_part_is_adapted_by_default_without_the_head(backbone, random_tiny_encoder):
    model = backbone().load_model(random_tiny_encoder)
    layers = adapted_layers(model.model)
    assert len(layers) == 4 * 7
    assert {part_of(name, model.parts) for name in layers} == {"language"}
    assert has_adapter(model.model)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"parts": ("vision",)}, {"vision"}),
        ({"parts": ("projector",)}, {"projector"}),
        ({"parts": ("vision", "projector", "language")}, {"vision", "projector", "language"}),
        ({"modules": r".*visual\.blocks\.\d+\.attn\.qkv|.*q_proj"}, {"vision", "language"}),
    ],
)
def test_other_parts_are_adapted_by_name(backbone, random_tiny_encoder, settings, parts):
    model = backbone(**settings).load_model(random_tiny_encoder)
    assert {part_of(name, model.parts) for name in adapted_layers(model.model)} == parts
    if "modules" in settings:
        assert len(adapted_layers(model.model)) == 3 + 4


def test_only_what_is_adapted_gets_gradients_and_nothing_else_moves(backbone, random_tiny_model, trained):
    base = {f"model.{name}": value for name, value in random_tiny_model.model.named_parameters()}
    model = trained(backbone(train_in_full=("projector",)))
    moved = set()
    for name, value in model.named_parameters():
        plain = base.get(name.replace(".base_layer", "").replace(".original_module", ""))
        assert value.requires_grad == (".lora_" in name or "modules_to_save" in name), name
        if plain is not None:
            assert torch.equal(value, plain), name
            moved.add(name)
    assert len(moved) == len(base)
    assert model.trained_parts == {"language", "projector"}


@pytest.mark.parametrize(("kind", "scaling"), [("lora", 6 / 4), ("rslora", 6 / math.sqrt(4)), ("dora", 6 / 4)])
def test_the_strength_of_an_adapter(backbone, random_tiny_encoder, kind, scaling):
    model = backbone(kind=kind, alpha=6).load_model(random_tiny_encoder)
    layer = model.model.model.language_model.layers[0].mlp.up_proj
    weight = layer.base_layer.weight.detach()
    inner, outer = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight
    torch.manual_seed(0)
    with torch.no_grad():
        outer.normal_()
        given = torch.randn(3, weight.shape[1])
        changed = weight + scaling * outer @ inner
        if kind == "dora":  # columns keep the lengths they had
            changed = changed * (weight.norm(dim=1) / changed.norm(dim=1))[:, None]
        torch.testing.assert_close(layer.eval()(given), given @ changed.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_a_saved_adapter_goes_on_where_it_was(backbone, random_tiny_encoder, trained, batch, tmp_path, kind):
    model = trained(backbone(kind=kind, parts=("vision", "language"), train_in_full=("projector",)))
    model.save(tmp_path)
    # Its own settings hold, so none need be given.
    again = Backbone(backbone().checkpoint, adapter=AdapterSettings(load=str(tmp_path))).load_model(random_tiny_encoder)
    assert torch.equal(scores(again, batch), scores(model, batch))
    assert {name for name, value in again.named_parameters() if value.requires_grad} == {
        name for name, value in model.named_parameters() if value.requires_grad
    }


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_peft_loads_what_is_saved(backbone, random_tiny_folder, trained, batch, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = trained(backbone(train_in_full=("projector",)))
    model.save(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(random_tiny_folder)
    assert saved["inference_mode"]
    assert not model.model.peft_config["default"].inference_mode
    plain = AutoModelForImageTextToText.from_pretrained(saved["base_model_name_or_path"])
    model.model = PeftModel.from_pretrained(plain, tmp_path).get_base_model()
    expected = scores(trained(backbone(train_in_full=("projector",))), batch)
    torch.testing.assert_close(scores(model, batch), expected)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_a_merged_export_is_a_plain_model_that_says_the_same(
    backbone, random_tiny_encoder, trained, batch, tmp_path, kind
):
    settings = backbone(kind=kind, parts=("vision", "language"), train_in_full=("projector",), export="merged")
    model = trained(settings)
    settings.save(model, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    plain = Backbone(str(tmp_path)).load_model(random_tiny_encoder)
    assert not has_adapter(plain.model)
    torch.testing.assert_close(scores(plain, batch), scores(model, batch), atol=1e-4, rtol=1e-4)
    assert set(plain.state_dict()) == set(Backbone(settings.checkpoint).load_model(random_tiny_encoder).state_dict())


def test_an_adapter_over_rounded_weights_is_merged_into_the_true_ones(
    backbone, random_tiny_encoder, trained, batch, tmp_path
):
    settings = backbone(QuantisationSettings(), export="merged")
    model = trained(settings)
    settings.save(model, tmp_path / "merged")
    model.save(tmp_path / "adapter")
    unrounded = backbone(load=str(tmp_path / "adapter")).load_model(random_tiny_encoder)
    plain = Backbone(str(tmp_path / "merged")).load_model(random_tiny_encoder)
    torch.testing.assert_close(scores(plain, batch), scores(unrounded, batch), atol=1e-4, rtol=1e-4)


def test_merging_leaves_the_trained_model_alone(backbone, random_tiny_model, trained, batch):
    model = trained(backbone())
    before = scores(model, batch)
    merged = merge_adapter(random_tiny_model.model, model.model)
    assert merged is random_tiny_model.model
    assert torch.equal(scores(model, batch), before)
    assert all(value.requires_grad for value in merged.parameters())


@pytest.fixture
def saved(backbone, random_tiny_encoder, tmp_path):
    """A folder with a saved adapter."""
    save_adapter(backbone().load_model(random_tiny_encoder).model, tmp_path)
    return tmp_path


def rewrite(folder, change):
    state = load_file(folder / "adapter_model.safetensors")
    change(state)
    save_file(state, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop(sorted(state)[0]), r"1 missing weights \(.*layers\.0.*\); 0 unexpected"),
        (lambda state: state.update(more=torch.zeros(1)), r"0 missing weights; 1 unexpected weights \(more\)"),
        (
            lambda state: [
                state.update({name.replace("language_model.", ""): state.pop(name)}) for name in list(state)
            ],
            r"56 missing weights \(.*, …\); 56 unexpected weights",
        ),
        (lambda state: state.update({"embed_tokens.base_layer.weight": torch.zeros(1)}), "save_embedding_layers=False"),
        (lambda state: state.update({sorted(state)[0]: torch.zeros(2, 2)}), r"has shape \(2, 2\), this model needs"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(backbone, random_tiny_encoder, saved, change, told):
    rewrite(saved, change)
    with pytest.raises(UserError, match=told):
        backbone(load=str(saved)).load_model(random_tiny_encoder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rank": 8}, r"rank is 8, but the adapter in .* has 4"),
        ({"kind": "dora"}, "kind is 'dora', but"),
        ({"alpha": 5}, "alpha is 5, but"),
        ({"parts": ("vision",)}, "has 28 layers, .* choose 15"),
    ],
)
def test_settings_that_disagree_with_the_saved_adapter_are_refused(
    backbone, random_tiny_encoder, saved, settings, told
):
    with pytest.raises(UserError, match=told):
        backbone(load=str(saved), **settings).load_model(random_tiny_encoder)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("adapter_config.json", None, "there is no adapter_config.json"),
        ("adapter_config.json", "{", "is no JSON"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 4, "target_modules": "("}', "cannot be added"),
        (
            "adapter_config.json",
            '{"peft_type": "LORA", "r": 4, "lora_alpha": "x", "target_modules": ["q_proj"]}',
            "cannot be added",
        ),
        ("adapter_model.safetensors", "short", "is damaged or cut short"),
        ("adapter_config.json", '{"peft_type": "IA3"}', "does not describe a LoRA adapter"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa"}', "begun with 'pissa'"),
        ("adapter_model.safetensors", None, "there is no adapter_model.safetensors"),
    ],
)
def test_a_folder_that_is_no_saved_adapter_is_refused(backbone, random_tiny_encoder, saved, file, text, told):
    (saved / file).unlink()
    if text is not None:
        (saved / file).write_text(text)
    with pytest.raises(UserError, match=told):
        backbone(load=str(saved)).load_model(random_tiny_encoder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"modules": "nothing"}, r"choose no linear layer .* model\.language_model\.layers\.\\d\+\.self_attn\.q_proj"),
        ({"modules": ".*lm_head"}, "adapts the head"),
        ({"train_in_full": ("head",)}, "cannot train alone"),
        ({"parts": ("vision",), "modules": ".*q_proj"}, "names parts .* and modules; give one"),
        ({"parts": ("projector",), "train_in_full": ("projector",)}, "names projector in parts and in train_in_full"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused(backbone, random_tiny_encoder, settings, told):
    with pytest.raises(UserError, match=told):
        backbone(**settings).load_model(random_tiny_encoder)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"modules": "("}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        AdapterSettings(**settings)


def test_an_adapter_that_was_trained_on_another_base_is_told_of(backbone, random_tiny_encoder, saved, caplog):
    backbone(load=str(saved)).load_model(random_tiny_encoder)
    assert "trained on" not in caplog.text
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "someone/else"}))
    backbone(load=str(saved)).load_model(random_tiny_encoder)
    assert "was trained on 'someone/else', and is now put on" in caplog.text


def test_the_type_of_the_adapter(random_tiny_folder, random_tiny_encoder, batch):
    for dtype, wanted in (("float32", torch.float32), ("same", torch.bfloat16)):
        adapter = AdapterSettings(rank=2, dtype=dtype, train_in_full=("projector",))
        model = Backbone(str(random_tiny_folder), dtype="bfloat16", adapter=adapter).load_model(random_tiny_encoder)
        assert {value.dtype for value in adapter_state(model.model).values()} == {wanted}
        if dtype == "same":
            model.train().score(batch).log_probs.sum().backward()


def test_new_adapters_depend_on_the_seed_alone(backbone, random_tiny_encoder):
    states = [adapter_state(backbone().load_model(random_tiny_encoder, seed).model) for seed in (1, 1, 2)]
    names = [name for name in states[0] if "lora_A" in name]
    assert all(torch.equal(states[0][name], states[1][name]) for name in names)
    assert not any(torch.equal(states[0][name], states[2][name]) for name in names)


def test_the_file_tells_which_names_it_uses(backbone, saved, random_tiny_encoder):
    import transformers
    from safetensors import safe_open

    with safe_open(saved / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata()["transformers"] == transformers.__version__
    state = read_state(saved)
    assert all(re.fullmatch(r"base_model\.model\.model\.language_model\..*\.lora_[AB]\.weight", name) for name in state)
    load_state(backbone().load_model(random_tiny_encoder).model, state, origin="a test")


TEXT_ONLY = {"qwen2", "llama"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantisation", [None, QuantisationSettings()], ids=["plain", "nf4"])
def test_every_family_is_adapted_saved_reloaded_and_merged(family_folder, make_sample, tmp_path, family, quantisation):
    folder = str(family_folder(family))
    full = () if family in TEXT_ONLY else ("projector",)
    adapter = AdapterSettings(rank=2, train_in_full=full, export="merged")
    backbone = Backbone(folder, adapter=adapter, quantisation=quantisation, gradient_checkpointing=True)
    encoder = backbone.load_encoder()
    images = 0 if family in TEXT_ONLY else 1
    batch = encoder.encode([make_sample("a", "1", images=images), make_sample("b b", "2", images=0)])
    model = backbone.load_model(encoder)
    plain = Backbone(folder).load_model(encoder)
    if quantisation is None:
        assert torch.equal(scores(model, batch), scores(plain, batch))
    before = scores(model, batch).mean()
    optimizer = torch.optim.AdamW([value for value in model.train().parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):
        (-model.score(batch).log_probs.mean()).backward()
        assert all((value.grad is not None) == value.requires_grad for value in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert scores(model, batch).mean() > before
    model.save(tmp_path / "adapter")
    loaded = AdapterSettings(load=str(tmp_path / "adapter"))
    again = Backbone(folder, adapter=loaded, quantisation=quantisation).load_model(encoder)
    assert torch.equal(scores(again, batch), scores(model, batch))
    backbone.save(model, tmp_path / "merged")
    encoder.processor.save_pretrained(tmp_path / "merged")
    merged = Backbone(str(tmp_path / "merged")).load_model(encoder)
    wanted = Backbone(folder, adapter=loaded).load_model(encoder)
    torch.testing.assert_close(scores(merged, batch), scores(wanted, batch), atol=1e-4, rtol=1e-4)


def test_a_part_without_linear_layers_is_not_adapted_in_silence(family_folder):
    backbone = Backbone(str(family_folder("gemma3")), adapter=AdapterSettings(parts=("projector", "language")))
    with pytest.raises(UserError, match="names projector, which has no linear layer"):
        backbone.load_model(backbone.load_encoder())
