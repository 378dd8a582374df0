"""Names on disk and in memory, against what transformers writes and reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.disk_names import disk_groups, memory_names, write_as_loaded, written_weights
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY


def load(folder: Path, family: str = "") -> Any:
    loader = transformers.AutoModelForCausalLM if family in TEXT_ONLY else transformers.AutoModelForImageTextToText
    return loader.from_pretrained(folder)


def on_meta(folder: Path, family: str = "") -> Any:
    loader = transformers.AutoModelForCausalLM if family in TEXT_ONLY else transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        return loader.from_config(transformers.AutoConfig.from_pretrained(folder))


def check(names: dict[str, str], model: Any, saved: dict[str, torch.Tensor]) -> None:
    assert names.keys() == saved.keys()
    assert len(set(names.values())) == len(names)
    assert set(names.values()) >= {name for name, _ in model.named_parameters()}
    held = model.state_dict()
    for disk, name in names.items():
        assert torch.equal(saved[disk], held[name]), (disk, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_those_that_save_pretrained_writes(
    family: str, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family_folder(family)
    model = load(folder, family)
    saved = load_file(folder / "model.safetensors")
    # Each weight of a random model is different, so equal numbers mean the same weight (but for ones and zeros).
    check(memory_names(model), model, saved)
    check(memory_names(model, saved), model, saved)
    skeleton = on_meta(folder, family)
    assert memory_names(skeleton) == memory_names(skeleton, saved) == memory_names(model)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == memory_names(model).keys()


def streamed(skeleton: Any, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Writes a model group by group, from a skeleton and numbers."""
    written: dict[str, torch.Tensor] = {}
    for group in disk_groups(skeleton):
        named = written_weights(skeleton, {name: held[name] for name in group})
        assert not named.keys() & written.keys()
        written |= named
    return written


def check_written(found: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    assert found.keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in found.items())


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_a_skeleton_is_written_as_the_model_that_was_loaded(
    family: str, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family_folder(family)
    model, skeleton = load(folder, family), on_meta(folder, family)
    model.save_pretrained(tmp_path)
    write_as_loaded(skeleton, load_file(folder / "model.safetensors"))
    groups = disk_groups(skeleton)
    assert max(map(len, groups)) == 1
    check_written(streamed(skeleton, model.state_dict()), load_file(tmp_path / "model.safetensors"))


def test_a_model_of_its_own_is_written_as_a_new_one(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    configuration = transformers.AutoConfig.from_pretrained(family_folder("llava"))
    model, skeleton = (transformers.AutoModelForImageTextToText.from_config(configuration) for _ in range(2))
    model.save_pretrained(tmp_path)
    write_as_loaded(skeleton, None)
    check_written(streamed(skeleton, model.state_dict()), load_file(tmp_path / "model.safetensors"))


def test_the_bundled_model_ties_its_head() -> None:
    policy = Backbone().load_model(Backbone().load_encoder())
    names = memory_names(policy.model)
    assert names["model.embed_tokens.weight"] == "model.language_model.embed_tokens.weight"
    layer = "layers.3.self_attn.q_proj.weight"
    assert names[f"model.{layer}"] == f"model.language_model.{layer}"
    assert not any("lm_head" in name for name in names)
    assert memory_names(policy.model, [*names, "lm_head.weight"]) == names
    assert names.keys() == load_file(TINY_FOLDER / "model.safetensors").keys()


def test_names_of_older_checkpoints_are_followed_to_where_they_are_loaded(
    family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family_folder("llava")
    saved = load_file(folder / "model.safetensors")
    # As published LLaVA checkpoints name their vision tower.
    older = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in saved.items()}
    transformers.AutoConfig.from_pretrained(folder).save_pretrained(tmp_path)
    save_file(older, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = load(tmp_path)
    check(memory_names(model, older), model, older)
    assert memory_names(on_meta(tmp_path), older) == memory_names(model, older)


def test_what_the_model_lacks_is_left_out(family_folder: Callable[[str], Path]) -> None:
    skeleton = on_meta(family_folder("qwen2"), "qwen2")
    assert memory_names(skeleton, ["model.norm.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]) == {
        "model.norm.weight": "model.norm.weight"
    }


EXPERTS = transformers.Qwen3MoeConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=8,
    moe_intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=1,
    num_key_value_heads=1,
    num_experts=2,
    num_experts_per_tok=1,
)


def test_stacked_experts_are_written_one_by_one_a_layer_at_a_time(tmp_path: Path) -> None:
    transformers.Qwen3MoeForCausalLM(EXPERTS).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    model = transformers.Qwen3MoeForCausalLM.from_pretrained(tmp_path)
    with torch.device("meta"):
        skeleton = transformers.Qwen3MoeForCausalLM(EXPERTS)
    write_as_loaded(skeleton, saved)
    assert any("experts.1.up_proj" in name for name in saved)
    assert 1 < max(map(len, disk_groups(skeleton))) < len(model.state_dict()) // 2 + 1
    check_written(streamed(skeleton, model.state_dict()), saved)


def test_stacked_experts_are_refused() -> None:
    configuration = EXPERTS
    with torch.device("meta"):
        model = transformers.Qwen3MoeForCausalLM(configuration)
    with pytest.raises(UserError, match="Qwen3MoeForCausalLM does not store the weight .*experts"):
        memory_names(model)
    with pytest.raises(UserError, match="stacks"):
        memory_names(model, ["model.layers.0.mlp.experts.0.gate_proj.weight"])
