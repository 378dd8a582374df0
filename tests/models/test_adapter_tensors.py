"""Adapters on a checkpoint, against PEFT's own merge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference, TensorSource
from lit_vlm.models.adapter_tensors import AdapterTensors
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from lit_vlm.models.disk_names import memory_names
from tests.models.family_checkpoints import TEXT_ONLY

LAYER = "model.layers.0.self_attn.q_proj.weight"


def plain(family: str, folder: Path) -> Any:
    loader = transformers.AutoModelForCausalLM if family in TEXT_ONLY else transformers.AutoModelForImageTextToText
    return loader.from_pretrained(folder)


def save_adapter(family: str, base: Path, folder: Path, **settings: Any) -> Any:
    """Saves a random adapter with PEFT, and returns the model with it merged."""
    model = plain(family, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        chosen = peft.LoraConfig(**{"r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "up_proj"], **settings})
        adapted = peft.get_peft_model(model, chosen)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1 if "lora" in name else 1.0)
    adapted.save_pretrained(str(folder))
    return adapted.merge_and_unload()


def check(source: TensorSource, base: TensorSource, merged: Any) -> int:
    """Compares all weights with a merged model; returns how many are not the base's."""
    held = merged.state_dict()
    names = memory_names(merged, source.names)
    assert names.keys() == set(source.names) == set(base.names)
    changed = 0
    with source.opened() as opened:
        for disk, name in names.items():
            found = opened.read(disk)
            assert (opened.shape(disk), opened.dtype(disk)) == (tuple(held[name].shape), base.dtype(disk))
            torch.testing.assert_close(found.to(held[name].dtype), held[name], rtol=1e-5, atol=1e-6)
            changed += not torch.equal(found.to(held[name].dtype), base.read(disk))
    return changed


@pytest.mark.parametrize("family", ["qwen2", "qwen2_5_vl", "qwen3_vl", "llava", "internvl", "idefics3", "gemma3"])
@pytest.mark.filterwarnings("ignore")
def test_weights_are_those_that_peft_merges(family: str, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = family_folder(family)
    targets = ["q_proj", "up_proj"] if family in TEXT_ONLY else ["q_proj", "up_proj", "fc1"]
    merged = save_adapter(family, folder, tmp_path, target_modules=targets)
    base = open_checkpoint(ModelReference(str(folder)))
    source = open_checkpoint(ModelReference(str(folder), adapter=str(tmp_path)))
    assert isinstance(source, AdapterTensors)
    assert check(source, base, merged) >= 4
    assert source.label == f"{folder} with {tmp_path}"
    assert source.digests().keys() == {"model.safetensors", "adapter_model.safetensors"}
    assert source.vocabulary() == base.vocabulary()


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"up_proj": 4}, "alpha_pattern": {r"layers\.0\.mlp\.up_proj": 3}},
        {"modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
    ],
    ids=["rslora", "dora", "patterns", "whole", "bias"],
)
@pytest.mark.filterwarnings("ignore")
def test_scales_and_whole_weights(
    settings: dict[str, Any], family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family_folder("qwen2")
    merged = save_adapter("qwen2", folder, tmp_path, **settings)
    base = open_checkpoint(ModelReference(str(folder)))
    source = AdapterTensors(base, tmp_path)
    assert check(source, base, merged) == {"modules_to_save": 10}.get(next(iter(settings)), 4)  # five norms, the head


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 16, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(told))


FACTORS = {
    f"base_model.model.{LAYER.removesuffix('.weight')}.lora_A.weight": torch.tensor([[1.0, 0, 2], [0, 1, -1]]),
    f"base_model.model.{LAYER.removesuffix('.weight')}.lora_B.weight": torch.tensor([[1.0, 1], [0, 2]]),
}
A, B = FACTORS


def base_of_zeros(folder: Path, dtype: torch.dtype = torch.float32) -> TensorSource:
    folder.mkdir()
    save_file({LAYER: torch.zeros(2, 3, dtype=dtype), "model.norm.weight": torch.ones(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return open_checkpoint(ModelReference(str(folder)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_change_is_the_scaled_product_of_the_factors(tmp_path: Path, dtype: torch.dtype) -> None:
    base = base_of_zeros(tmp_path / "base", dtype)
    write_adapter(tmp_path / "adapter", FACTORS)
    source = AdapterTensors(base, tmp_path / "adapter")
    # s = 16 / 2; B A = [[1, 1, 1], [0, 2, -2]].
    assert source.read(LAYER).tolist() == [[8, 8, 8], [0, 16, -16]]
    assert (source.read(LAYER).dtype, source.dtype(LAYER)) == (torch.float32, dtype)
    assert source.read("model.norm.weight").tolist() == [1, 1, 1]


def test_small_changes_of_rounded_weights_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    save_file({LAYER: torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    write_adapter(tmp_path / "adapter", {A: FACTORS[A] * 1e-4, B: FACTORS[B]})
    source = open_checkpoint(ModelReference(str(tmp_path / "base"), adapter=str(tmp_path / "adapter")))
    assert (source.read(LAYER) - 1)[0].tolist() == pytest.approx([8e-4] * 3, rel=1e-3)


def test_names_of_an_older_transformers_are_found(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    base = open_checkpoint(ModelReference(str(family_folder("qwen2_5_vl"))))
    width = base.shape(LAYER)[0]
    factors = {A: torch.ones(2, width), B: torch.ones(width, 2)}
    for prefix in ("model.layers", "model.language_model.layers"):
        renamed = {name.replace("model.layers", prefix): value for name, value in factors.items()}
        write_adapter(tmp_path / prefix, renamed)
        source = AdapterTensors(base, tmp_path / prefix)
        assert (source.read(LAYER) - base.read(LAYER)).mean() == pytest.approx(16)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_training_saved_is_read(
    random_tiny_folder: Path, random_tiny_encoder: Any, tmp_path: Path
) -> None:
    settings = AdapterSettings(rank=2, train_in_full=("projector",), export="merged")
    backbone = Backbone(str(random_tiny_folder), adapter=settings)
    policy = backbone.load_model(random_tiny_encoder)
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter.data, std=0.1)
    policy.save(tmp_path / "adapter")
    backbone.save(policy, tmp_path / "merged")
    source = open_checkpoint(ModelReference(str(random_tiny_folder), adapter=str(tmp_path / "adapter")))
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert set(source.names) == merged.keys()
    for name, value in merged.items():
        torch.testing.assert_close(source.read(name), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, r"lora_A\.weight' without its magnitude; save it again"),
        ({"alora_invocation_tokens": [1]}, r"no plain LoRA: it has alora_invocation_tokens \[1\]; load it with peft"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"init_lora_weights": "pissa"}, "begun with 'pissa'"),
        ({"peft_type": "IA3"}, "does not describe a LoRA adapter"),
        ({"r": None}, "no r and lora_alpha"),
        ({"r": 4}, "has rank 2 .* says 4"),
    ],
)
def test_other_adapters_are_to_be_merged_first(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    base = base_of_zeros(tmp_path / "base")
    write_adapter(tmp_path / "adapter", FACTORS, **settings)
    with pytest.raises(UserError, match=message):
        AdapterTensors(base, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({A.replace("lora_A", "lora_magnitude_vector"): torch.ones(2)}, "no part of a plain LoRA"),
        ({A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(2)}, "which is no magnitude of DoRA"),
        ({A.replace("lora_A.weight", "lora_embedding_A"): torch.ones(2, 3)}, "no part of a plain LoRA"),
        ({"model.norm.weight": torch.ones(3)}, "no part of a plain LoRA"),
        ({A: torch.ones(2, 4)}, r"shapes \(2, 2\) and \(2, 4\) .* has \(2, 3\)"),
        ({B: torch.ones(2, 3)}, "factors of shapes"),
        ({B: None}, "without its lora_B"),
        ({"base_model.model.model.norm.weight": torch.ones(4)}, r"has shape \(4,\), and .* has \(3,\)"),
        ({"base_model.model.lm_head.weight": torch.ones(4)}, "does not have: lm_head.weight"),
        ({"base_model.model.model.visual.fc1.lora_A.weight": torch.ones(1, 1)}, "model.visual.fc1.weight"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    base = base_of_zeros(tmp_path / "base")
    tensors = {name: value for name, value in {**FACTORS, **change}.items() if value is not None}
    write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(UserError, match=message):
        AdapterTensors(base, tmp_path / "adapter")


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    base = base_of_zeros(tmp_path / "base")
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        AdapterTensors(base, tmp_path / "base")
    write_adapter(tmp_path / "adapter", FACTORS)
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(UserError, match="convert it first"):
        AdapterTensors(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        AdapterTensors(base, tmp_path / "adapter")
