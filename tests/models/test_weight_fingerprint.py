import pytest
import torch

from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.weight_fingerprint import weight_fingerprint


@pytest.fixture
def load(random_tiny_folder, random_tiny_encoder):
    """Loads a copy of the random tiny model."""
    return lambda **options: Backbone(str(random_tiny_folder), **options).load_model(random_tiny_encoder).model


def test_the_same_model_gives_the_same_fingerprint(load):
    first, second = weight_fingerprint(load(), with_adapter=True), weight_fingerprint(load(), with_adapter=False)
    assert first == second
    assert len(first) == 32


def test_one_bit_of_one_weight_counts(load):
    model = load()
    before = weight_fingerprint(model, with_adapter=False)
    with torch.no_grad():
        weight = next(model.parameters())
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    assert weight_fingerprint(model, with_adapter=False) != before


def test_the_type_of_the_weights_counts(load):
    assert weight_fingerprint(load(dtype="bfloat16"), with_adapter=False) != weight_fingerprint(
        load(), with_adapter=False
    )


@pytest.mark.parametrize("settings", [{"kind": "lora"}, {"kind": "dora"}, {"train_in_full": ("projector",)}])
def test_an_adapter_counts_only_where_it_is_asked_for(load, settings):
    base, adapted = load(), load(adapter=AdapterSettings(rank=4, **settings))
    plain = weight_fingerprint(base, with_adapter=False)
    assert weight_fingerprint(adapted, with_adapter=False) == plain
    whole = weight_fingerprint(adapted, with_adapter=True)
    assert whole != plain
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value.add_(1)
    assert weight_fingerprint(adapted, with_adapter=False) == plain
    assert weight_fingerprint(adapted, with_adapter=True) != whole
