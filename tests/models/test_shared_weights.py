import json

import pytest
import torch
from safetensors.torch import load_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import SharesWeights
from lit_vlm.models.adapters import AdapterSettings, adapter_state
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.shared_weights import refuse_hidden


def adapted(folder, encoder, **settings):
    return Backbone(str(folder), adapter=AdapterSettings(rank=2, **settings)).load_model(encoder)


def test_all_weights_go_in_buckets_under_the_names_on_disk(random_tiny_folder, random_tiny_model):
    policy = random_tiny_model
    assert isinstance(policy, SharesWeights)
    assert policy.shared_adapter_rank() is None
    assert policy.weight_source == str(random_tiny_folder)
    most = 1 << 16
    buckets = list(policy.weight_buckets(torch.float32, most, keep=True))
    found = [bucket.tensors for bucket in buckets]
    assert len(found) > 2
    assert all(len(one) == 1 or sum(value.nbytes for value in one.values()) <= most for one in found)
    together = {name: value for one in found for name, value in one.items()}
    on_disk = load_file(random_tiny_folder / "model.safetensors")
    assert together.keys() == on_disk.keys()
    assert all(torch.equal(together[name], value) for name, value in on_disk.items())


def test_weights_go_in_the_other_sides_type(random_tiny_model):
    for bucket in random_tiny_model.weight_buckets(torch.bfloat16, 1 << 30, keep=True):
        assert {value.dtype for value in bucket.tensors.values()} == {torch.bfloat16}


def test_a_rank_that_does_not_speak_gets_nothing(random_tiny_folder, random_tiny_encoder, random_tiny_model):
    assert list(random_tiny_model.weight_buckets(torch.float32, 1, keep=False)) == []
    policy = adapted(random_tiny_folder, random_tiny_encoder)
    assert list(policy.weight_buckets(torch.float32, 1, keep=False)) == []


def test_an_adapter_goes_in_one_piece_with_its_configuration(random_tiny_folder, random_tiny_encoder):
    policy = adapted(random_tiny_folder, random_tiny_encoder, kind="rslora")
    assert policy.shared_adapter_rank() == 2
    (bucket,) = policy.weight_buckets(torch.bfloat16, 1, keep=True)
    configuration = json.loads(bucket.metadata["adapter_config"])
    assert (configuration["r"], configuration["use_rslora"], configuration["peft_type"]) == (2, True, "LORA")
    expected = adapter_state(policy.model)
    found = bucket.tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "dora"}, "is dora, which vLLM does not take"),
        ({"parts": ("language", "vision")}, "layers outside the language part, such as "),
        ({"train_in_full": ("projector",)}, "train_in_full trains weights beside the adapter"),
    ],
)
def test_adapters_that_vllm_does_not_take_are_refused(random_tiny_folder, random_tiny_encoder, settings, told):
    with pytest.raises(UserError, match=told) as fault:
        adapted(random_tiny_folder, random_tiny_encoder, **settings).shared_adapter_rank()
    assert "HFRolloutEngine" in str(fault.value)


def test_strategies_that_hide_the_weights_are_refused():
    model = torch.nn.Linear(1, 1)
    refuse_hidden(model)
    model.weight.ds_id = 3
    with pytest.raises(UserError, match=r"trainer\.strategy deepspeed"):
        refuse_hidden(model)
