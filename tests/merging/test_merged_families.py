"""Text donors merged into vision-language models of each family, which plain transformers then loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.functional.weight_names import canonical_name, weight_key, weight_place
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.merging.merge_plan import plan_merge
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from tests.merging.material import Added, run_plan
from tests.models.family_checkpoints import build_family_checkpoint

TEXT_MODELS = {
    "qwen2_vl": "Qwen2",
    "qwen2_5_vl": "Qwen2",
    "qwen3_vl": "Qwen3",
    "llava": "Llama",
    "llava_next": "Llama",
    "llava_onevision": "Qwen2",
    "internvl": "Qwen2",
    "idefics3": "Llama",
    "smolvlm": "Llama",
    "gemma3": "Gemma3",
}
EVERYWHERE = [CoefficientRule("*", 1.0)]


@pytest.fixture(scope="module")
def family_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")

    def folder(family: str) -> Path:
        if not (root / family).exists():
            build_family_checkpoint("llava" if family == "llava_next" else family, root / family)
            if family == "llava_next":
                _become_llava_next(root / family)
        return root / family

    return folder


def _become_llava_next(folder: Path) -> None:
    """Writes a model of this family into LLaVA's folder."""
    before = transformers.LlavaConfig.from_pretrained(folder)
    configuration = transformers.LlavaNextConfig(
        text_config=before.text_config,
        vision_config=before.vision_config,
        image_token_id=before.image_token_id,
        image_grid_pinpoints=[[32, 64]],
    )
    transformers.LlavaNextForConditionalGeneration(configuration).save_pretrained(folder)


def _load(folder: Path) -> Any:
    name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model


def _text_model(model: Any, family: str) -> Any:
    """The decoder of a model, as a text model."""
    kind = TEXT_MODELS[family]
    settings = model.config.text_config.to_dict()
    settings = {key: value for key, value in settings.items() if key not in ("model_type", "architectures")}
    settings["tie_word_embeddings"] = model.config.tie_word_embeddings
    configuration = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")(**settings)
    text = getattr(transformers, f"{kind}ForCausalLM")(configuration)
    decoder = {
        canonical: value
        for name, value in model.state_dict().items()
        if (canonical := canonical_name(name)) is not None
    }
    text.load_state_dict({name if "lm_head" in name else f"model.{name}": value for name, value in decoder.items()})
    return text


def _save(text: Any, like: Path, folder: Path) -> None:
    text.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(like).save_pretrained(folder)


@pytest.mark.parametrize("family", TEXT_MODELS)
def test_a_text_donor_takes_the_place_of_the_decoder(
    family: str, family_model: Callable[[str], Path], tmp_path: Path
) -> None:
    target = family_model(family)
    model = _load(target)
    on_disk = open_checkpoint(ModelReference(str(target))).names
    keys = [weight_key(name) for name in on_disk]
    assert set(keys) == {weight_key(name) for name, _ in model.named_parameters()}
    assert len(set(keys)) == len(on_disk)
    assert {weight_place(name, 2).group for name in on_disk} >= {"attn", "mlp", "norm", "embed", "vision", "projector"}
    text = _text_model(model, family)
    _save(text, target, tmp_path / "base")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in text.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    _save(text, target, tmp_path / "donor")

    donor = Donor(str(tmp_path / "donor"), weight=EVERYWHERE)
    settings = MergeSettings(Added(), [donor], target=str(target), base=str(tmp_path / "base"))
    plan = plan_merge(settings, open_checkpoint)
    result = run_plan(plan)
    assert list(result) == list(plan.target.names)
    merged = {planned.place.name for planned in plan.outputs if planned.merged}
    assert merged == {name for name in result if canonical_name(name) is not None}

    folder = tmp_path / "merged"
    model.config.save_pretrained(folder)
    save_file(result, folder / "model.safetensors", metadata={"format": "pt"})
    state = _load(folder).state_dict()
    wanted = {canonical_name(name): value for name, value in text.state_dict().items()}
    found = {canonical_name(name): value for name, value in state.items() if canonical_name(name) is not None}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    before = model.state_dict()
    outside = [name for name in state if canonical_name(name) is None]
    assert outside
    assert all(torch.equal(state[name], before[name]) for name in outside)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")
def test_an_adapter_s_difference_is_its_product(family_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = family_model("qwen2_5_vl")
    settings = LoraConfig(
        r=2, lora_alpha=16, target_modules=r".*language_model.*(q_proj|up_proj)", init_lora_weights=False
    )
    torch.manual_seed(0)
    model = get_peft_model(_load(folder), settings)
    model.save_pretrained(tmp_path / "adapter")
    donor = Donor(ModelReference(str(folder), adapter=str(tmp_path / "adapter")))
    plan = plan_merge(MergeSettings(Added(), [donor], target=str(folder)), open_checkpoint)
    found = {p.place.name: plan.tensors(p).deltas[0] for p in plan.outputs if p.merged}
    changed = {name for name, delta in found.items() if delta.any()}
    assert changed == {
        name for name in found if name.startswith("model.") and ("q_proj.w" in name or "up_proj" in name)
    }
    state = model.state_dict()
    for name in changed:
        stem = f"base_model.model.model.language_model.{canonical_name(name)}".removesuffix(".weight")
        product = 8 * state[f"{stem}.lora_B.default.weight"] @ state[f"{stem}.lora_A.default.weight"]
        torch.testing.assert_close(found[name], product, rtol=1e-5, atol=1e-6)
