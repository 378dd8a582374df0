import json

import pytest
import torch
from safetensors.torch import load_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.merge_adapter import AdaptedWeight, AdapterSummary, write_adapter
from lit_vlm.merging.merge_plan import plan_merge
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from tests.merging.material import opener, text_model

QUERY = "model.layers.1.self_attn.q_proj.weight"
LINEAR = {QUERY: "decoder.layers.1.self_attn.q_proj.weight", "lm_head.weight": "lm_head.weight"}


@pytest.fixture
def models():
    return text_model("base", 0), text_model("a", 1)


def plan_of(models, weight=1.0, **options):
    settings = MergeSettings(TaskArithmetic(), [Donor("a", weight=weight)], base="base", **options)
    return plan_merge(settings, opener(*models))


def test_full_rank_reproduces_the_difference_of_each_linear_layer(models, tmp_path):
    summary = write_adapter(plan_of(models, weight=0.5), tmp_path / "out", 4, "merge: {}", LINEAR)
    factors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    stem = "base_model.model.decoder.layers.1.self_attn.q_proj"
    assert set(factors) == {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"}
    base, a = (model.tensors[QUERY] for model in models)
    delta = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
    torch.testing.assert_close(delta, 0.5 * (a - base), rtol=1e-5, atol=1e-5)
    assert [weight.name for weight in summary.adapted] == [QUERY]
    assert summary.adapted[0].relative_error < 1e-5
    configuration = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert configuration["r"] == configuration["lora_alpha"] == 4
    assert configuration["target_modules"] == ["decoder.layers.1.self_attn.q_proj"]
    assert "library_name: peft" in (tmp_path / "out" / "README.md").read_text()


def test_what_has_no_place_in_the_adapter_is_reported(models, tmp_path):
    summary = write_adapter(plan_of(models), tmp_path / "out", 2, "", LINEAR)
    base, a = (model.tensors["model.norm.weight"] for model in models)
    assert summary.left_out["model.norm.weight"] == pytest.approx(float((a - base).norm()), rel=1e-5)
    assert "lm_head.weight" not in summary.left_out  # it is kept
    assert "other merged weights left out" in summary.outcome


def test_layers_outside_the_decoder_are_adapted_on_demand(models, tmp_path):
    settings = MergeSettings(TaskArithmetic(), [Donor("a", weight=[_rule("head"), _rule("attn")])], base="base")
    plan = plan_merge(settings, opener(*models))
    summary = write_adapter(plan, tmp_path / "out", 2, "", LINEAR, everywhere=True)
    assert {weight.name for weight in summary.adapted} == {QUERY, "lm_head.weight"}


def _rule(name):
    from lit_vlm.functional.weight_coefficients import CoefficientRule

    return CoefficientRule(name, 1.0)


def test_the_error_of_all_weights_together():
    # delta norms 3 and 4, of which half and nothing is lost; 12 left out: sqrt(1.5² + 144) / 13
    adapted = (AdaptedWeight("a", 0.5, 3.0), AdaptedWeight("b", 0.0, 4.0))
    summary = AdapterSummary(None, 1, adapted, {"c": 12.0}, 1.0)
    assert summary.relative_error == pytest.approx((2.25 + 144) ** 0.5 / 13)


def test_a_merge_without_linear_layers_is_refused_and_leaves_nothing(models, tmp_path):
    with pytest.raises(UserError, match="none of them is merged"):
        write_adapter(plan_of(models), tmp_path / "out", 2, "", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused(models, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not empty"):
        write_adapter(plan_of(models), tmp_path, 2, "", LINEAR)


def test_new_rows_have_no_place_in_an_adapter(models, tmp_path):
    with pytest.raises(UserError, match="holds no rows of new_tokens"):
        write_adapter(plan_of(models, new_tokens=["b"]), tmp_path / "out", 4, "merge: {}", LINEAR)
    assert not (tmp_path / "out").exists()
