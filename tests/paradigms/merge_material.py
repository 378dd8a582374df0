"""Checkpoints that differ in a known way, and short runs over them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import lightning
import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.models.sharding import whole
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.models.vision_language_model import GenerationSettings
from tests.merging.perturbed_models import changed

Weights = dict[str, Tensor]


def weights_of(folder: Path = TINY_FOLDER) -> Weights:
    """Reads all weights of a checkpoint, by name on disk."""
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def write_model(folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """Writes the bundled model, its weights changed, float32."""
    return changed(folder, TINY_FOLDER, lambda name, value: change(name, value.float()))


def direction(name: str, value: Tensor, size: float = 0.5) -> Tensor:
    """A fixed random change of a decoder weight, ``size`` times as large as it; zeros elsewhere."""
    if "layers" not in name or value.ndim < 2 or "visual" in name:
        return torch.zeros_like(value)
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return size * float(value.std()) * torch.randn(value.shape, generator=generator)


def planted(folder: Path, best: float, size: float = 0.5) -> dict[str, str]:
    """Writes a target that is the bundled model less ``best`` times a vector, and two checkpoints that vector apart."""
    folders = {
        "target": write_model(folder / "target", lambda name, value: value - best * direction(name, value, size)),
        "plus": write_model(folder / "plus", lambda name, value: 0.9 * value + direction(name, value, size)),
        "minus": write_model(folder / "minus", lambda name, value: 0.9 * value),
    }
    return {name: str(path) for name, path in folders.items()}


def digits(encoder, **options) -> DigitsReasoning:
    """A few pages of digits."""
    sizes = {"train_size": 8, "validation_size": 16, "test_size": 8}
    return DigitsReasoning(
        encoder, **{**sizes, "batch_size": 2, "evaluation_batch_size": 16, "num_workers": 0, **options}
    )


def trainer(folder: Path, **options) -> lightning.Trainer:
    """A Trainer for searches, that writes into a folder."""
    lightning.seed_everything(0, verbose=False)
    defaults = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "limit_train_batches": 1,
        "num_sanity_val_steps": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": folder,
    }
    return lightning.Trainer(**{**defaults, **options})


def in_memory(module) -> Mapping[str, Tensor]:
    """Copies the weights that a module holds; where they are cut up, on all ranks together."""
    return {name: whole(value.detach()).clone() for name, value in module.policy.model.state_dict().items()}


SHORT = GenerationSettings(max_new_tokens=2)
