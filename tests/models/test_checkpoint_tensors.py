"""Checkpoints as sources of weights."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from lit_vlm.models.tiny_vlm import TINY_FOLDER


def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, folder)
    return folder


def test_the_bundled_model_is_read_bit_for_bit() -> None:
    source = open_checkpoint(ModelReference("tiny"))
    saved = load_file(TINY_FOLDER / "model.safetensors")
    assert (source.label, source.folder) == ("tiny", TINY_FOLDER)
    assert set(source.names) == saved.keys()
    assert source.configuration["model_type"] == "qwen2_5_vl"
    with source.opened() as opened:
        for name, value in saved.items():
            assert (opened.shape(name), opened.dtype(name)) == (tuple(value.shape), value.dtype)
            assert torch.equal(opened.read(name), value)
    content = (TINY_FOLDER / "model.safetensors").read_bytes()
    assert source.digests() == {"model.safetensors": hashlib.sha256(content).hexdigest()}


def test_shards_hold_the_same_as_one_file(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    whole = open_checkpoint(ModelReference(str(family_folder("qwen2"))))
    model = transformers.AutoModelForCausalLM.from_pretrained(whole.folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    cut = open_checkpoint(ModelReference(str(tmp_path)))
    assert len(cut.digests()) > 2
    assert set(cut.names) == set(whole.names)
    assert all(torch.equal(cut.read(name), whole.read(name)) for name in whole.names)


def test_the_vocabulary_has_added_tokens_too() -> None:
    tokens = open_checkpoint(ModelReference("tiny")).vocabulary()
    assert len(tokens) == 685
    assert len(set(tokens.values())) == 685
    assert {"<think>", "<|im_end|>", "a"} <= tokens.keys()


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)])
def test_a_missing_tokenizer_is_told_of(tmp_path: Path, kept: tuple[str, ...]) -> None:
    folder = copied(tmp_path)
    for name in {"tokenizer.json", "tokenizer_config.json"} - set(kept):
        (folder / name).unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        open_checkpoint(ModelReference(str(folder))).vocabulary()


@pytest.mark.parametrize(
    ("content", "message"), [(None, r"has no config\.json"), ("{", "no JSON"), ("[]", "does not describe")]
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    folder = copied(tmp_path)
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_checkpoint(ModelReference(str(folder)))


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter and no model; give its base as model"):
        open_checkpoint(ModelReference(str(tmp_path)))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="convert it first"):
        open_checkpoint(ModelReference(str(folder)))


def test_weights_quantised_otherwise_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    configuration = json.loads((folder / "config.json").read_text())
    configuration["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(configuration))
    with pytest.raises(UserError, match="quantised with gptq"):
        open_checkpoint(ModelReference(str(folder)))
