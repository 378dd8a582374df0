"""Runs a training step again that was written down because its loss or gradients were not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lit_vlm.functional.fault_folder import Fault, FaultContents, read_fault
from lit_vlm.functional.gradient_peaks import gradient_peaks
from lit_vlm.interfaces.batches import PromptBatch, TrainingBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion
from lit_vlm.interfaces.rollouts import Iteration, Rewards, Rollouts
from lit_vlm.paradigms.on_policy import OnPolicyModule
from lit_vlm.paradigms.policy_module import PolicyModule


@dataclass(frozen=True)
class Repetition:
    """What a step did when it was run again."""

    fault: Fault
    """What was written down."""
    losses: tuple[float, ...]
    """Of each backward pass, as the strategy was given them."""
    parameters: tuple[str, ...]
    """Those whose gradients were infinite or NaN."""
    used_weights: bool
    """Whether the weights were those of the step; otherwise they are those that the module was loaded with."""

    @property
    def is_finite(self) -> bool:
        """Whether nothing went wrong this time."""
        return not self.parameters and all(abs(loss) < torch.inf for loss in self.losses)


def repeat_fault(folder: Path, module: PolicyModule, **options: Any) -> Repetition:
    """Runs the step of one rank again, up to where the optimizer would change the weights.

    Batches, weights (where they were kept), random numbers and precision are those of the step; completions that were
    sampled, with their rewards and advantages, are taken as they were. Nothing is written.

    Args:
        folder: As ``NonFiniteGuard`` wrote it.
        module: Built as in the run, not trained before.
        options: For the ``Trainer``, such as ``accelerator``.

    Raises:
        UserError: It is no such folder, it is of another kind of module, or it has no tensors.
    """
    contents = read_fault(folder)
    fault = contents.fault
    if type(module).__name__ != fault.module:
        raise UserError(f"{folder} is a fault of {fault.module}, but the module is a {type(module).__name__}")
    if not contents.batches:
        raise UserError(f"{folder} has no tensors, they were larger than NonFiniteGuard.kept_bytes; nothing to repeat")
    seeds = [said.seed for said in fault.micro_batches if said.has_tensors]
    _start_random_numbers(module, seeds)
    if isinstance(module, OnPolicyModule):
        _replay_rollouts(module, contents)
    watch = _Watch(contents.weights, contents.rollouts)
    accumulated = {} if isinstance(module, OnPolicyModule) else {"accumulate_grad_batches": len(contents.batches)}
    trainer = Trainer(
        **{
            "devices": 1,
            "precision": fault.precision,
            "max_epochs": 1,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "callbacks": [watch],
            **accumulated,
            **options,
        }
    )
    trainer.fit(module, _SavedBatches(contents.batches))
    return Repetition(fault, tuple(watch.losses), tuple(watch.parameters), used_weights=bool(contents.weights))


class _SavedBatches(LightningDataModule):
    """Serves the batches of a step."""

    tasks: tuple[str, ...] = ()

    def __init__(self, batches: Sequence[TrainingBatch]) -> None:
        super().__init__()
        self._batches = list(batches)

    def train_batches(self, world_size: int) -> int:
        """Counts them."""
        return len(self._batches)

    def train_dataloader(self) -> _Loader:
        """Returns them in their order."""
        return _Loader(self._batches)

    def val_dataloader(self) -> _Loader:
        """Returns none."""
        return _Loader([])


class _Loader:
    """Yields batches; Lightning would look for loaders within a list."""

    def __init__(self, batches: Sequence[TrainingBatch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TrainingBatch]:
        return iter(self._batches)


class _Watch(Callback):
    """Puts the step's weights and advantages in, notes losses and gradients, and drops the latter."""

    def __init__(self, weights: Mapping[str, Tensor], rollouts: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._rollouts = rollouts
        self.losses: list[float] = []
        self.parameters: list[str] = []

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = dict(pl_module.named_parameters())
        absent = sorted(self._weights.keys() - own.keys())
        if absent:
            raise UserError(f"the module has no {absent[0]!r}, which was trained; build it as in the run")
        for name, value in self._weights.items():
            own[name].copy_(value)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.losses.append(float(loss.detach()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        names, peaks = gradient_peaks(pl_module)
        bad = [name for name, peak in zip(names, peaks.tolist(), strict=True) if not abs(peak) < torch.inf]
        self.parameters += [name for name in bad if name not in self.parameters]
        optimizer.zero_grad(set_to_none=True)

    def on_after_advantages(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        if iteration.advantages is not None and len(self._rollouts["advantages"]) == len(iteration.advantages.values):
            iteration.advantages.values = self._rollouts["advantages"].to(iteration.advantages.values.device)

    def on_before_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """An observer of rollouts must have it."""

    on_after_rollout = on_after_rewards = on_after_update = on_before_rollout


def _start_random_numbers(module: PolicyModule, seeds: Sequence[int]) -> None:
    """Lets dropout draw what it drew in the step, whose rank and number are not those of this run."""

    def start(batch: Any, batch_idx: int) -> None:
        torch.manual_seed(seeds[batch_idx])

    module.on_train_batch_start = start  # type: ignore[method-assign]


def _replay_rollouts(module: OnPolicyModule, contents: FaultContents) -> None:
    """Puts what was sampled and scored in the place of sampling and scoring."""
    rollouts = _rollouts(module, contents.batches[-1], contents.rollouts)
    rewards = contents.rollouts["rewards"].cpu()

    def sample(prompts: PromptBatch) -> Rollouts:
        return rollouts.to(module.device, prompts)

    def reward(_: Rollouts) -> Rewards:
        return Rewards(total=rewards, parts=rewards[:, None], weights=torch.ones(1), names=("recorded",))

    module._sample = sample  # type: ignore[method-assign]
    module._reward = reward  # type: ignore[method-assign, assignment]


@dataclass(frozen=True)
class _Recorded:
    """Completions as they were sampled."""

    tensors: Mapping[str, Tensor]
    completions: tuple[Completion, ...]

    def to(self, device: torch.device, prompts: PromptBatch) -> Rollouts:
        tensors: dict[str, Any] = {name: value.to(device) for name, value in self.tensors.items()}
        return Rollouts(prompts=prompts, completions=self.completions, **tensors)


def _rollouts(module: OnPolicyModule, batch: Any, tensors: Mapping[str, Tensor]) -> _Recorded:
    own = {name: value for name, value in tensors.items() if name not in ("rewards", "advantages")}
    completions = []
    rows = zip(own["prompt_of"].tolist(), own["token_ids"].tolist(), own["mask"].sum(1).tolist(), strict=True)
    for prompt, ids, length in rows:
        sample = batch.samples[prompt]
        text = module.encoder.decode(ids[:length])
        completions.append(Completion(sample, module.encoder.describe_prompt(sample), text, None, 0.0, length, 0.0))
    return _Recorded(own, tuple(completions))
