"""Small checkpoints that differ from the bundled model, for merges."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_vlm.models.tiny_vlm import TINY_FOLDER

WEIGHTS = "model.safetensors"


def perturbed(folder: Path, seed: int, scale: float = 0.05) -> Path:
    """Copies the bundled model, noise added to every weight."""
    generator = torch.Generator().manual_seed(seed)
    return changed(
        folder,
        TINY_FOLDER,
        lambda name, tensor: (tensor + scale * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype),
    )


def changed(folder: Path, source: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """Copies a checkpoint, its weights changed by a function from name and tensor to tensor."""
    shutil.copytree(source, folder)
    weights = {name: change(name, tensor).contiguous() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder
