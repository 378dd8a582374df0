import pytest
import torch

from lit_vlm.health.weights_round_trip import changed_weights, saved_backbone, weights_round_trip
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone


def saves(subject):
    """Gives the module the export that needs no Trainer."""

    def export(folder):
        subject.module.backbone.save(subject.policy, folder)
        subject.encoder.processor.save_pretrained(folder)

    subject.module.export = export
    return subject


ADAPTERS = [None, AdapterSettings(rank=2), AdapterSettings(rank=2, export="merged")]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=["whole", "adapter", "merged"])
def test_what_is_saved_is_what_was_trained(adapter, make_subject):
    subject = saves(make_subject(adapter=adapter))
    before = {name: value.clone() for name, value in subject.policy.named_parameters()}
    found = weights_round_trip(subject)
    assert found.status == "pass", found.told
    assert all(torch.equal(value, before[name]) for name, value in subject.policy.named_parameters())


@pytest.mark.parametrize("adapter", ADAPTERS[:2], ids=["whole", "adapter"])
def test_a_folder_with_the_old_weights_fails(adapter, make_subject):
    subject = saves(make_subject(adapter=adapter))
    untrained = subject.module.backbone.load_model(subject.encoder)

    def export(folder):
        subject.module.backbone.save(untrained, folder)
        subject.encoder.processor.save_pretrained(folder)

    subject.module.export = export
    found = weights_round_trip(subject)
    assert found.status == "fail"
    assert "saved and loaded again" in found.told


def test_a_saved_folder_is_loaded_as_it_was_written():
    plain = Backbone("hub/name", revision="main", train_parts=("language",))
    assert saved_backbone(plain, "out") == Backbone("out", train_parts=("language",))
    adapted = Backbone("hub/name", adapter=AdapterSettings(rank=2))
    assert saved_backbone(adapted, "out") == Backbone("hub/name", adapter=AdapterSettings(rank=2, load="out"))


def test_weights_are_given_back_after_a_fault(make_subject):
    policy = make_subject().policy
    before = {name: value.clone() for name, value in policy.named_parameters()}
    first = next(iter(before))

    def stop():
        with changed_weights(policy):
            assert not torch.equal(policy.get_parameter(first), before[first])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert all(torch.equal(value, before[name]) for name, value in policy.named_parameters())
