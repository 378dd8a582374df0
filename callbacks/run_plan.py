"""What a run will cost, told before its first step, and how long it will take, told after its third."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_vlm.callbacks.readable_numbers import compact_number, duration_text
from lit_vlm.callbacks.training_tally import TalliesTraining, TrainingTally, TrainingTotals
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.memory import FirstBatches, MemoryPlan, OffersFirstBatches, PlansMemory

MENDS = {
    "activations": "give model.backbone.gradient_checkpointing true, or fewer pixels or samples of a batch "
    "(model.backbone.max_pixels, data.batch_size, data.max_batch_tokens, model.update.micro_batch_tokens)",
    "logits": "lower model.chunk_tokens",
    "optimizer state": "train a low-rank adapter (model.backbone.adapter), or spread the weights over more devices "
    "(trainer.strategy fsdp2)",
    "gradients": "train a low-rank adapter (model.backbone.adapter), or spread the weights over more devices "
    "(trainer.strategy fsdp2)",
    "weights": "give model.backbone.dtype bfloat16, hold frozen weights in four bits under an adapter "
    "(model.backbone.quantisation), or spread them over more devices (trainer.strategy fsdp2)",
    "reference": "train a low-rank adapter with model.reference.kind adapter_off",
    "keys and values": "lower data.batch_size, model.group_size or the longest completion",
}
"""What to change where a part is the largest, by the beginning of its name."""
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
TIMED_BATCHES = 3


class RunPlan(TalliesTraining):
    """Prints tokens and predicted memory before the first step, and speed and time to finish after three.

    Tokens are those of the first training batches, memory that of the largest among them: a later batch may be larger.
    Where the prediction is more than the device has, a warning says what to change. The parameters of each part are
    ``ParameterTable``'s. A module that is not ``PlansMemory``, or data that do not tell their first batches, have that
    part left out. Nothing that is read ahead changes the order of samples or random numbers.

    Args:
        batches: First batches of the first rank that are looked at, 0 for none.
    """

    def __init__(self, batches: int = 16) -> None:
        if batches < 0:
            raise UserError(f"RunPlan.batches is {batches}; give 0 or more")
        super().__init__()
        self.batches = batches
        self._marks: list[TrainingTotals] = []
        self._last_step = 0
        self._first_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the plan, when the model is loaded."""
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not self.batches or not isinstance(data, OffersFirstBatches):
            return
        first = data.first_batches(self.batches)
        if first is None:
            return
        lines = [token_line(first, trainer.accumulate_grad_batches * trainer.world_size)]
        plan = pl_module.memory_plan(first.largest) if isinstance(pl_module, PlansMemory) else None
        if plan is not None:
            lines += memory_lines(plan)
        print("\n".join(lines), flush=True)
        if plan is not None:
            told = shortage(plan, device_memory(trainer))
            if told:
                rank_zero_warn(told)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.tally = TrainingTally()
        self._marks = []
        self._last_step = self._first_step = trainer.global_step
        self.tally.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints speed and time to finish once three batches have ended with a step, of which the first warms up."""
        if len(self._marks) == TIMED_BATCHES:
            return
        self.tally.add(batch, outputs)
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self._marks.append(self.tally.totals)
        if len(self._marks) < TIMED_BATCHES:
            return
        first, last = self._marks[0], self._marks[-1]
        seconds = max(last.seconds - first.seconds, 1e-9)
        tokens = float(last.tokens - first.tokens.to(last.tokens.device))
        counts = torch.tensor([tokens, float(last.samples - first.samples)], device=trainer.strategy.root_device)
        # Every rank has come as far: they take the same batches.
        rates = (trainer.strategy.reduce(counts, reduce_op="sum") / seconds).tolist()
        if trainer.is_global_zero:
            print(self._speed_line(trainer, rates, seconds / (TIMED_BATCHES - 1), batch_idx), flush=True)

    def _speed_line(self, trainer: Trainer, rates: Sequence[float], seconds: float, batch_idx: int) -> str:
        """Says how fast training goes.

        Args:
            trainer: Tells how much is left.
            rates: Tokens and samples a second, over all ranks.
            seconds: Of a batch that ends with a step, and of those before it that belong to the step.
            batch_idx: Number of the batch in its epoch.
        """
        told = f"{compact_number(rates[0])} tokens/s, {compact_number(rates[1])} samples/s"
        steps = (self._last_step - self._first_step) / TIMED_BATCHES
        left = steps_left(trainer, batch_idx, steps)
        if left is None:
            return told
        return f"{told}; {left:,.0f} steps to go: {duration_text(left * seconds / steps)} without validation"


def steps_left(trainer: Any, batch_idx: int, steps: float) -> float | None:
    """Counts the optimizer steps until the run ends; None where nothing ends it.

    Args:
        trainer: Says when it ends.
        batch_idx: Number of the last batch in its epoch.
        steps: Optimizer steps that a batch serves, or those that an accumulated step's last batch does.
    """
    ends: list[float] = []
    if trainer.max_steps not in (None, -1):
        ends.append(trainer.max_steps - trainer.global_step)
    batches = trainer.num_training_batches
    if trainer.max_epochs not in (None, -1) and math.isfinite(batches):
        rest = (trainer.max_epochs - trainer.current_epoch) * batches - (batch_idx + 1)
        ends.append(rest / trainer.accumulate_grad_batches * steps)
    return max(0.0, min(ends)) if ends else None


def token_line(first: FirstBatches, parts: int) -> str:
    """Says what images, batches and steps hold.

    Args:
        first: The first batches of a rank.
        parts: Micro-batches of a step, over all ranks.
    """
    count = len(first.tokens)
    total = sum(tokens.total for tokens in first.tokens) * parts / count
    media = sum(tokens.media for tokens in first.tokens) * parts / count
    told = f"a step has {total:,.0f} tokens of {sum(first.samples) * parts / count:,.0f} samples"
    if first.images:
        each = sum(tokens.media for tokens in first.tokens) / first.images
        told += f", {media:,.0f} tokens of images, {each:,.0f} each"
    return f"{told} (by the first {count:,} batches)"


def memory_lines(plan: MemoryPlan) -> list[str]:
    """Sets the parts of the largest moment as a table, and the other moments below."""
    parts = plan.phases[plan.peak_phase]
    sizes = {name: size_text(size) for name, size in parts.items()}
    name_width, size_width = max(map(len, sizes)), max(map(len, sizes.values()))
    others = [
        f"{phase} {size_text(sum(held.values()))}" for phase, held in plan.phases.items() if phase != plan.peak_phase
    ]
    return [
        f"predicted memory of a device: {size_text(plan.peak)}, where the {plan.peak_phase} ({plan.told})",
        *(f"  {name:<{name_width}}  {size:>{size_width}}" for name, size in sizes.items()),
        f"  at other moments: {', '.join(others)}",
    ]


def shortage(plan: MemoryPlan, memory: int | None) -> str | None:
    """Says what to change where a plan needs more memory than there is; None where it does not."""
    if memory is None or plan.peak <= memory:
        return None
    parts = plan.phases[plan.peak_phase]
    kinds = {kind: sum(size for name, size in parts.items() if name.startswith(kind)) for kind in MENDS}
    largest = sorted((kind for kind in kinds if kinds[kind]), key=lambda kind: -kinds[kind])[:2]
    mends = "; ".join(f"for {kind} ({size_text(kinds[kind])}): {MENDS[kind]}" for kind in largest)
    return (
        f"this run is predicted to need {size_text(plan.peak)} of a device that has {size_text(memory)}, where the "
        f"{plan.peak_phase}; {mends}"
    )


def device_memory(trainer: Trainer) -> int | None:
    """Returns the bytes that each process of this machine has: a GPU's own, or its share of main memory."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if MEMORY_LIMIT.is_file():
        limit = MEMORY_LIMIT.read_text(encoding="utf-8").strip()
        memory = min(memory, int(limit)) if limit.isdecimal() else memory
    return memory // max(1, trainer.num_devices)


def size_text(size: float) -> str:
    """Writes bytes in units of 1024.

    Example:
        >>> size_text(512), size_text(1536 * 1024), size_text(80 * 2**30)
        ('512 B', '1.5 MiB', '80.0 GiB')
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"
