from pathlib import Path

import pytest
import torch
from torch import nn

from lit_vlm.functional.training_checkpoint import open_training_checkpoint
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.run_weights import RunWeights


class Model(nn.Module):
    """An embedding, its layer, and a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 2)
        self.layer = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embed.weight


@pytest.fixture
def weights(tmp_path: Path):
    def weights(state, rest=()):
        named = {f"_policy.model.{name}": value for name, value in state.items()}
        torch.save({"state_dict": {**named, **dict(rest)}}, tmp_path / "x.ckpt")
        return RunWeights(open_training_checkpoint(tmp_path / "x.ckpt"))

    return weights


def test_every_weight_is_found_also_under_wrappers_and_other_weights_are_passed_by(weights):
    state = {f"_orig_mod._fsdp_wrapped_module.{name}": value for name, value in Model().state_dict().items()}
    found = weights(state, {"_reference.model.x": torch.ones(1)})
    names = found.fit(Model())
    assert set(names) == set(Model().state_dict())
    assert torch.equal(found.read(names["layer.bias"]), state["_orig_mod._fsdp_wrapped_module.layer.bias"])
    assert found.dtype(names["layer.bias"]) == torch.float32
    assert found.segment_head() == {}


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
def test_of_weights_that_are_one_a_checkpoint_may_hold_either(weights, kept):
    state = Model().state_dict()
    del state["embed.weight"], state["head.weight"]
    names = weights({**state, kept: torch.ones(3, 2)}).fit(Model())
    assert names["embed.weight"] == names["head.weight"] == f"_policy.model.{kept}"


def test_a_checkpoint_of_another_model_is_refused(weights):
    state = Model().state_dict()
    with pytest.raises(UserError, match=r"lacks 1 weights \(layer.bias\), and has 1 weights \(other\) besides"):
        weights({name: state[name] for name in state if name != "layer.bias"} | {"other": torch.ones(1)}).fit(Model())
    with pytest.raises(UserError, match=r"'layer.bias' .* has shape \(3,\), and the model of its config.yaml \(2,\)"):
        weights({**state, "layer.bias": torch.ones(3)}).fit(Model())
    with pytest.raises(UserError, match="holds no weights of a model"):
        weights({}, {"other": torch.ones(1)})


def test_an_adapter_needs_what_was_trained_and_no_more(weights):
    trained = {"a.lora_A": torch.ones(2, 3)}
    held = weights({"a.lora_A": torch.ones(2, 3), "a.base": torch.ones(1)})
    assert held.fit_adapter(trained, ["a.lora_A", "a.base"]) == {"a.lora_A": "_policy.model.a.lora_A"}
    with pytest.raises(UserError, match=r"has 1 weights \(a.base\) besides"):
        held.fit_adapter(trained, trained)
    with pytest.raises(UserError, match=r"lacks 1 weights \(a.lora_B\)"):
        held.fit_adapter({**trained, "a.lora_B": torch.ones(3, 2)}, ["a.lora_A", "a.base"])


def test_the_head_of_a_judge_is_found(weights):
    held = weights(Model().state_dict(), {"_policy.segment_head.weight": torch.ones(3, 2)})
    assert {name: tuple(value.shape) for name, value in held.segment_head().items()} == {"weight": (3, 2)}
