"""Weights that bitsandbytes stored in few bits, against its own dequantisation and the true weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.models.checkpoint_tensors import open_checkpoint

LAYER = "model.layers.0.mlp.up_proj.weight"
KINDS: Mapping[str, Mapping[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fsdp": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": torch.bfloat16},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
# Half the widest step between two values of four bits, or of 127 steps; double quantisation rounds the scales too.
TOLERANCES = {"nf4": 0.152, "double": 0.17, "fsdp": 0.152, "fp4": 0.167, "int8": 0.004}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    root = tmp_path_factory.mktemp("quantised")

    def folder(kind: str, whole: Path) -> Path:
        if not (root / kind).exists():
            settings = BitsAndBytesConfig(**KINDS[kind])
            model = AutoModelForCausalLM.from_pretrained(
                whole, quantization_config=settings, dtype=torch.bfloat16, device_map="cpu"
            )
            model.save_pretrained(root / kind)
        return root / kind

    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_weights_are_those_before_but_for_rounding(
    kind: str, quantised: Callable[[str, Path], Path], family_folder: Callable[[str], Path]
) -> None:
    whole = open_checkpoint(ModelReference(str(family_folder("qwen2"))))
    packed = open_checkpoint(ModelReference(str(quantised(kind, whole.folder))))
    assert set(packed.names) == set(whole.names)
    changed = 0
    with packed.opened() as source:
        for name in whole.names:
            expected, found = whole.read(name), source.read(name)
            assert source.shape(name) == tuple(found.shape) == tuple(expected.shape)
            assert source.dtype(name) == torch.bfloat16
            quantised_here = "proj" in name and name.endswith("weight")
            assert found.dtype == (torch.float32 if quantised_here else torch.bfloat16)
            # And a little, since the weights were bfloat16 when they were quantised.
            largest = float(expected.abs().max())
            bound = TOLERANCES[kind] * largest if quantised_here else 0.0
            assert float((found.float() - expected).abs().max()) <= bound + largest / 256
            changed += not torch.equal(found.float(), expected.bfloat16().float())
    assert changed == 14  # seven matrices in each of two layers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nf4", "double", "fp4"])
def test_weights_are_those_that_bitsandbytes_computes(
    kind: str, quantised: Callable[[str, Path], Path], family_folder: Callable[[str], Path]
) -> None:
    folder = quantised(kind, family_folder("qwen2"))
    # Its rows are one block wide, which bitsandbytes computes rightly on a CPU.
    name = "model.layers.0.mlp.down_proj.weight"
    tensors = {key: value for key, value in load_file(folder / "model.safetensors").items() if key.startswith(name)}
    packed = tensors.pop(name)
    state = QuantState.from_dict(tensors, device=torch.device("cpu"))
    state.dtype = torch.float32
    found = open_checkpoint(ModelReference(str(folder))).read(name)
    torch.testing.assert_close(found, dequantize_4bit(packed, state), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 5), (3, 43), (2, 64), (65,)])
def test_a_weight_need_not_fill_its_blocks(shape: tuple[int, ...], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    tensors = {"w.weight": packed} | {f"w.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    found = open_checkpoint(ModelReference(str(tmp_path))).read("w.weight")
    for block, true in zip(found.reshape(-1).split(64), weight.reshape(-1).split(64), strict=True):
        # The largest of a block is exact.
        assert float((block - true).abs().max()) < 0.153 * float(true.abs().max())
        assert float(block.abs().max()) == pytest.approx(float(true.abs().max()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "lost", "message"),
    [
        ("double", ".quant_state.bitsandbytes__nf4", "without its scales"),
        ("double", ".absmax", "which it takes to dequantise"),
        ("int8", ".SCB", "without its scales"),
    ],
)
def test_weights_without_their_scales_are_refused(
    quantised: Callable[[str, Path], Path],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    lost: str,
    message: str,
) -> None:
    folder = quantised(kind, family_folder("qwen2"))
    tensors = load_file(folder / "model.safetensors")
    del tensors[(LAYER.removesuffix(".weight") if lost == ".SCB" else LAYER) + lost]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=message):
        open_checkpoint(ModelReference(str(tmp_path))).read(LAYER)
