import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.paradigms.precisions import HalfWeights, compute_dtype, weights_of_precision
from tests.paradigms import ranks_material

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


def strategy(plugin=None):
    return SingleDeviceStrategy(torch.device("cpu"), precision_plugin=plugin)


def test_other_precisions_leave_the_weights_as_they_are():
    for plugin in (Precision(), MixedPrecision("bf16-mixed", "cpu")):
        given = strategy(plugin)
        assert weights_of_precision(given, Backbone()) == Backbone()
        assert given.precision_plugin is plugin


def test_bf16_true_is_a_type_of_weights_and_nothing_else():
    given = strategy(HalfPrecision("bf16-true"))
    for _ in range(2):  # once for each stage
        assert weights_of_precision(given, Backbone()).dtype == "bfloat16"
    assert isinstance(given.precision_plugin, HalfWeights)
    assert given.precision_plugin.precision == "bf16-true"
    layer = torch.nn.Linear(2, 2)
    assert given.precision_plugin.convert_module(layer).weight.dtype == torch.float32
    assert given.precision_plugin.convert_input(torch.ones(2)).dtype == torch.float32


def test_contradictions_are_refused():
    with pytest.raises(UserError, match=r"16-true holds weights in float16.*bf16-true, or 16-mixed on a GPU"):
        weights_of_precision(strategy(HalfPrecision("16-true")), Backbone())
    with pytest.raises(UserError, match=r"but model\.backbone\.dtype is float16"):
        weights_of_precision(strategy(HalfPrecision("bf16-true")), Backbone(dtype="float16"))
    scaled = strategy(MixedPrecision("16-mixed", "cuda", scaler=torch.amp.GradScaler(enabled=False)))
    with pytest.raises(UserError, match=r"16-mixed scales gradients.*bf16-mixed"):
        compute_dtype(scaled, "fsdp2")


def test_weights_that_are_cut_up_are_gathered_in_the_type_they_are_computed_in():
    mixed = strategy(MixedPrecision("bf16-mixed", "cpu"))
    assert compute_dtype(mixed, "fsdp2") is torch.bfloat16
    assert compute_dtype(mixed, "ddp") is None
    assert compute_dtype(strategy(), "fsdp2") is None


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", ["sft", "dpo", "grpo"])
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_a_paradigm_learns_at_half_precision(random_tiny_folder, tmp_path, monkeypatch, paradigm, precision):
    from lit_vlm.models.vision_language_model import VisionLanguageModel

    monkeypatch.setattr(VisionLanguageModel, "end_token_ids", VisionLanguageModel.end_token_ids)  # put back at the end
    runs = {}
    for given in ("32-true", precision):
        out = tmp_path / f"{given}.pt"
        ranks_material.train(
            paradigm, 1, random_tiny_folder, out, strategy="auto", steps=3, precision=given, validates=True
        )
        runs[given] = torch.load(out, weights_only=True)
    exact, half = runs["32-true"], runs[precision]
    held = {value.dtype for value in half["weights"].values() if value.is_floating_point()}
    assert held == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    assert len(half["steps"]) == len(exact["steps"])
    if paradigm != "grpo":  # whose completions differ from the second step on
        wanted = [step["train/loss"] for step in exact["steps"]]
        assert [step["train/loss"] for step in half["steps"]] == pytest.approx(wanted, rel=0.1)
    assert half["steps"] != exact["steps"]
    assert all(value.isfinite().all() for value in half["weights"].values())


@pytest.mark.gpu
@pytest.mark.parametrize("paradigm", ["sft", "grpo"])
def test_a_paradigm_learns_with_scaled_gradients(random_tiny_folder, tmp_path, paradigm):
    out = tmp_path / "scaled.pt"
    ranks_material.train(
        paradigm, 1, random_tiny_folder, out, strategy="auto", steps=3, precision="16-mixed", accelerator="gpu"
    )
    assert all(value.isfinite().all() for value in torch.load(out, weights_only=True)["weights"].values())
