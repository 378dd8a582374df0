"""The optimizer and its learning-rate schedule, shared by all paradigms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from lightning import Trainer
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lit_vlm.interfaces.errors import UserError

WHOLE = "model"
"""Name of the groups of all parts without settings of their own."""


@dataclass(frozen=True)
class PartOptimizer:
    """What a part of the model has of its own; None takes the value for the whole model."""

    learning_rate: float | None = None
    """Peak learning rate of the part."""
    weight_decay: float | None = None
    """Decay of the part's matrices."""


@dataclass(frozen=True)
class PartOptimizers:
    """Settings of single parts; the schedule is the same for all."""

    vision: PartOptimizer = PartOptimizer()
    """Of the vision tower."""
    projector: PartOptimizer = PartOptimizer()
    """Of what leads from vision to language."""
    language: PartOptimizer = PartOptimizer()
    """Of the decoder."""
    head: PartOptimizer = PartOptimizer()
    """Of the output embeddings, where they are not those of the decoder's input."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019) with warm-up and decay."""

    learning_rate: float = 1e-5
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decay of matrices; biases, norms and embeddings are never decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""
    epsilon: float = 1e-8
    """Added to the denominator."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Course of the learning rate after warm-up, towards ``final_share`` of the peak."""
    warmup: float = 0.03
    """Linear warm-up: a share of all steps where below 1, a number of steps otherwise."""
    final_share: float = 0.0
    """Learning rate of the last step as a share of the peak."""
    parts: PartOptimizers = PartOptimizers()
    """Learning rates and decays of single parts of the model."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"model.optimizer.learning_rate is {self.learning_rate}; give a positive number")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"model.optimizer.betas is {list(self.betas)}; both must lie in [0, 1)")
        if self.epsilon <= 0 or self.weight_decay < 0:
            raise UserError(
                f"model.optimizer has epsilon {self.epsilon} and weight_decay {self.weight_decay}; "
                "epsilon must be positive and weight_decay not negative"
            )
        if self.warmup < 0 or not 0 <= self.final_share <= 1:
            raise UserError(
                f"model.optimizer has warmup {self.warmup} and final_share {self.final_share}; "
                "warmup must not be negative and final_share must lie in [0, 1]"
            )
        for part, own in self._own().items():
            if own.learning_rate is not None and own.learning_rate <= 0:
                raise UserError(
                    f"model.optimizer.parts.{part}.learning_rate is {own.learning_rate}; give a positive number, or "
                    "freeze the part with model.backbone.train_parts"
                )
            if own.weight_decay is not None and own.weight_decay < 0:
                raise UserError(f"model.optimizer.parts.{part}.weight_decay is {own.weight_decay}; give 0 or more")

    @property
    def tells_parameters_apart(self) -> bool:
        """Whether matrices or parts are treated by themselves."""
        return self.weight_decay > 0 or bool(self._own())

    def build(
        self, model: nn.Module, total_steps: int, part_of: Callable[[str], str] | None = None
    ) -> tuple[AdamW, LambdaLR]:
        """Makes the optimizer over the trainable parameters, and its schedule by optimizer step.

        Args:
            model: Whose parameters are trained.
            total_steps: Optimizer steps of the run.
            part_of: Tells the part of a parameter by its name; needed where parts have settings of their own.

        Raises:
            UserError: Nothing is trainable, or a part with settings of its own has nothing to train.
        """
        groups = self._groups(model, part_of)
        if not groups:
            raise UserError("no parameter is trainable; unfreeze a part of the model")
        for part in self._own():
            if not any(str(group["name"]).startswith(f"{part}/") for group in groups):
                raise UserError(
                    f"model.optimizer.parts.{part} is given, but the {part} part has nothing to train of its own; "
                    "leave it out, or train the part"
                )
        optimizer = AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.epsilon)
        return optimizer, LambdaLR(optimizer, self.multiplier(total_steps))

    def multiplier(self, total_steps: int) -> Callable[[int], float]:
        """Returns the learning rate's share of its peak as a function of steps done."""
        warmup_steps = math.ceil(self.warmup * total_steps) if self.warmup < 1 else round(self.warmup)

        def share(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            if self.schedule == "constant":
                return 1.0
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            falling = 1 - progress if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
            return self.final_share + (1 - self.final_share) * falling

        return share

    def _own(self) -> dict[str, PartOptimizer]:
        """Returns the parts that have settings of their own."""
        settings = {item.name: getattr(self.parts, item.name) for item in fields(self.parts)}
        return {part: own for part, own in settings.items() if own != PartOptimizer()}

    def _groups(self, model: nn.Module, part_of: Callable[[str], str] | None) -> list[dict[str, Any]]:
        """Groups the trainable parameters by part, where it has settings of its own, and by whether they decay."""
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        own = self._own()
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            part = part_of(name) if own and part_of is not None else WHOLE
            part = part if part in own else WHOLE
            settings = own.get(part, PartOptimizer())
            # Learnt tokens and positions, of shape (1, tokens, width), are embeddings too.
            learnt_tokens = parameter.ndim == 3 and len(parameter) == 1
            decays = parameter.ndim >= 2 and not learnt_tokens and id(parameter) not in embeddings
            decay = self.weight_decay if settings.weight_decay is None else settings.weight_decay
            label = f"{part}/{'decayed' if decays else 'not_decayed'}"
            group = {
                "name": label,
                "params": [],
                "lr": settings.learning_rate or self.learning_rate,
                "weight_decay": decay if decays else 0.0,
            }
            groups.setdefault(label, group)["params"].append(parameter)
        # The first group's rate is the one that is logged: that of the model, where parts leave any of it.
        return [groups[label] for label in sorted(groups, key=lambda label: (not label.startswith(WHOLE), label))]


def total_optimizer_steps(trainer: Trainer, batches_per_epoch: int, steps_per_batch: int = 1) -> int:
    """Counts the optimizer steps of a run.

    ``trainer.estimated_stepping_batches`` would do, but reading it breaks resuming in mid-epoch (Lightning #20550).

    Args:
        trainer: Says how long to train.
        batches_per_epoch: Micro-batches of an epoch on each rank.
        steps_per_batch: Optimizer steps that a batch serves where a module takes them by hand.

    Raises:
        UserError: The run has no end in steps, or an epoch has no batch.
    """
    limit = trainer.limit_train_batches
    if isinstance(limit, int):
        batches_per_epoch = min(batches_per_epoch, limit)
    elif limit is not None:
        batches_per_epoch = int(batches_per_epoch * limit)
    if batches_per_epoch < 1:
        raise UserError(
            "an epoch has no full training batch; lower data.batch_size, give more training samples or raise "
            "trainer.limit_train_batches"
        )
    steps_per_epoch = math.ceil(batches_per_epoch / trainer.accumulate_grad_batches) * steps_per_batch
    by_epochs = None if trainer.max_epochs in (None, -1) else trainer.max_epochs * steps_per_epoch
    by_steps = None if trainer.max_steps == -1 else trainer.max_steps
    ends = [end for end in (by_epochs, by_steps) if end is not None]
    if not ends:
        raise UserError("the run has no end; set trainer.max_steps or trainer.max_epochs")
    return min(ends)
