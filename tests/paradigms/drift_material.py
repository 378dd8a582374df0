"""A reasoning model for the random tiny VLM, and modules that are biased towards it."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lit_vlm.gradients.directional_bias import DirectionalBias
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.drift import DRIFTModule
from lit_vlm.paradigms.optimization import OptimizerSettings


def disk_weights(folder):
    """All weights of a checkpoint in one file, by their names on disk."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def write_text_prior(vlm, folder, noise=0.1):
    """Writes the decoder of a VLM as a text model of its own, moved at random."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(11)
    weights = {
        name: value + noise * torch.randn(value.shape, generator=generator)
        for name, value in disk_weights(vlm).items()
        if not name.startswith("visual.")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    configuration = json.loads((vlm / "config.json").read_text(encoding="utf-8"))
    layers = configuration["text_config"]["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": layers}))
    return folder


def optimizer(rate=1e-3):
    """Constant, so that a run's length has no effect on its steps."""
    return OptimizerSettings(learning_rate=rate, warmup=0, schedule="constant")


def drift_module(folder, prior, *, adapter=False, bias=None, **settings):
    """A DRIFT module over a checkpoint."""
    adapters = AdapterSettings(rank=2, alpha=4, dtype="same") if adapter else None
    return DRIFTModule(
        Backbone(str(folder), adapter=adapters),
        bias=DirectionalBias(str(prior), **settings) if bias is None else bias,
        optimizer=optimizer(),
        generation=GenerationSettings(max_new_tokens=4),
    )
