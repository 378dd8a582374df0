import torch
from peft.tuners.lora import LoraLayer

from lit_vlm.models.adapter_off import without_adapter
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone


def test_the_model_without_its_adapter_is_the_one_it_began_as(random_tiny_folder, random_tiny_encoder, make_sample):
    base = Backbone(str(random_tiny_folder)).load_model(random_tiny_encoder)
    policy = Backbone(str(random_tiny_folder), adapter=AdapterSettings(rank=4)).load_model(random_tiny_encoder)
    trained = {name for name, value in policy.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if name in trained:
                value.normal_()
    batch = random_tiny_encoder.encode([make_sample("i see 7.", "7")])
    with base.decoding():
        expected = base.score(batch).log_probs
    with policy.decoding(), without_adapter(policy):
        found = policy.score(batch).log_probs
    with policy.decoding():
        adapted = policy.score(batch).log_probs
    assert torch.equal(found, expected)
    assert not torch.allclose(adapted, expected, atol=1e-2)
    assert {name for name, value in policy.named_parameters() if value.requires_grad} == trained


def test_the_adapter_is_on_again_after_a_fault(random_tiny_folder, random_tiny_encoder):
    policy = Backbone(str(random_tiny_folder), adapter=AdapterSettings(rank=4)).load_model(random_tiny_encoder)
    trained = [value.requires_grad for value in policy.parameters()]
    try:
        with without_adapter(policy):
            raise KeyError
    except KeyError:
        pass
    assert [value.requires_grad for value in policy.parameters()] == trained
    assert not any(module.disable_adapters for module in policy.modules() if isinstance(module, LoraLayer))


def test_parts_that_train_in_full_beside_an_adapter_are_as_before_too(
    random_tiny_folder, random_tiny_encoder, make_sample
):
    base = Backbone(str(random_tiny_folder)).load_model(random_tiny_encoder)
    settings = AdapterSettings(rank=4, train_in_full=("projector",))
    policy = Backbone(str(random_tiny_folder), adapter=settings).load_model(random_tiny_encoder)
    trained = [value.requires_grad for value in policy.parameters()]
    with torch.no_grad():
        for value in policy.parameters():
            if value.requires_grad:
                value.normal_()
    batch = random_tiny_encoder.encode([make_sample("i see 7.", "7")])
    with base.decoding():
        expected = base.score(batch).log_probs
    with policy.decoding(), without_adapter(policy):
        found = policy.score(batch).log_probs
    assert torch.equal(found, expected)
    assert [value.requires_grad for value in policy.parameters()] == trained
