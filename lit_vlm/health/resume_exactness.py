"""Does a run that was stopped and resumed end with the weights of one that was not?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_vlm.health.finding import Finding

CHECK = "resume"
STEPS = 2
"""Optimizer steps before the stop, and as many after it."""
CLOSE = 1e-4
"""Largest difference relative to the largest weight, on devices whose sums are not the same twice."""
MEND = (
    "a resumed run goes another way than one that was not stopped: something of the recipe keeps a state that no "
    "checkpoint holds, such as a reward, a transform or a callback of your own; give it state_dict and load_state_dict"
)


@dataclass(frozen=True)
class Workshop:
    """Makes runs of a recipe, each from the start, whose files go into a temporary folder."""

    build: Callable[[], tuple[Any, Any]]
    """Seeds, and makes module and data as ``fit`` does."""
    trainer: Callable[[int, int, Path | None], Any]
    """Makes a Trainer on one device: optimizer steps of the schedule, step to stop at, file to save to then."""


def resume_exactness(workshop: Workshop, folder: Path, steps: int = STEPS) -> Finding:
    """Trains for twice ``steps`` in one go, and in two, and compares weights and optimizer state.

    Args:
        workshop: Makes the runs.
        folder: Where checkpoints go.
        steps: Optimizer steps of each half.
    """
    whole, is_exact = _trained(workshop, steps, 2 * steps, folder)
    saved = folder / "half.ckpt"
    _trained(workshop, steps, steps, folder, save_to=saved)
    resumed, _ = _trained(workshop, steps, 2 * steps, folder, resume=saved)
    different = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    largest = max((float(value.abs().max()) for value in whole.values() if value.numel()), default=1.0)
    worst = max((float((whole[name] - resumed[name]).abs().max()) for name in different), default=0.0)
    passed = not different if is_exact else worst <= CLOSE * largest
    told = f"{2 * steps} steps, and {steps} resumed for {steps} more: "
    if different:
        told += f"{len(different)} of {len(whole)} tensors differ, by {worst:.1e} at most, the first {different[0]}"
    else:
        told += f"all {len(whole)} tensors of weights and optimizer are the same bits"
    return Finding.of(CHECK, passed, told, MEND)


def _trained(
    workshop: Workshop, steps: int, stop: int, folder: Path, save_to: Path | None = None, resume: Path | None = None
) -> tuple[Mapping[str, Tensor], bool]:
    """Runs from the start or a checkpoint; returns what was trained, and whether sums are the same at each run."""
    module, data = workshop.build()
    settings = getattr(module, "reference_settings", None)
    if settings is not None and settings.kind == "cached":  # beside the user's records otherwise
        module.reference_settings = replace(settings, cache=str(folder / "reference_log_probs.safetensors"))
    trainer = workshop.trainer(2 * steps, stop, save_to)
    trainer.fit(module, datamodule=data, ckpt_path=None if resume is None else str(resume), weights_only=False)
    state = {name: value.detach().cpu().clone() for name, value in module.named_parameters() if value.requires_grad}
    for number, optimizer in enumerate(trainer.optimizers):
        for place, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    state[f"optimizer {number}, {place}, {name}"] = value.detach().cpu().clone()
    return state, trainer.strategy.root_device.type == "cpu"
