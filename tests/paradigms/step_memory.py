"""Measures the tensors of a training step, byte by byte, and beside them what was planned."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import lightning
import torch
from torch.profiler import ProfilerActivity, profile

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.memory import MemoryPlan
from lit_vlm.interfaces.records import RewardOutput, Sample
from lit_vlm.interfaces.roles import Reward
from lit_vlm.models.sharding import local_part
from tests.conftest import make_sample, picture


def long_samples(count: int, words: int = 40, size: tuple[int, int] = (128, 128)) -> list[Sample]:
    """Samples of one length, with an image each."""
    sample = make_sample("i see 7. " * words, "7")
    return [
        replace(sample, id=str(place), images=(picture((10 * place % 200, 90, 200), size),)) for place in range(count)
    ]


class Given(VLMDataModule):
    """Serves the samples that it is given."""

    def __init__(self, given: list[Sample], **options) -> None:
        super().__init__(num_workers=0, **options)
        self.given = given

    @property
    def tasks(self):
        return ("read",)

    def samples(self, split):
        return self.given


class RisingReward(Reward):
    """Finds every completion better than the last, so that none teaches nothing."""

    def __call__(self, completions, context=None):
        return RewardOutput(torch.arange(len(completions)).float() ** 2)


class MeasuredStep(lightning.Callback):
    """Measures a training step, when optimizer state is there, and asks the module for its plan of it."""

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.plan: MemoryPlan | None = None
        self.peak = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx != self.batch:
            return
        self.plan = pl_module.memory_plan(batch)
        self.peak = held_bytes(lasting_tensors(pl_module, trainer.optimizers[0]))
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        self.profiler.start()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx != self.batch:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated()
            return
        self.profiler.stop()
        self.peak += most_allocated(self.profiler)

    @property
    def ratio(self) -> float:
        """What was planned as a multiple of what was measured."""
        assert self.plan is not None
        return self.plan.peak / self.peak


def lasting_tensors(module, optimizer) -> Iterable[torch.Tensor]:
    """Weights, gradients, optimizer state and reference."""
    for parameter in module.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    yield from module.buffers()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))
    reference = getattr(module, "_reference", None)
    if reference is not None:
        yield from reference._copy.values()


def held_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Counts bytes of memory, tensors that share it once."""
    parts = [local_part(tensor).untyped_storage() for tensor in tensors]
    storages = {part.data_ptr(): part.nbytes() for part in parts}
    return sum(storages.values())


def most_allocated(profiler: profile) -> int:
    """Adds up what the allocator gave and took, in order, and returns the most above the beginning."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.device_type().name == "CPU":
            held += event.nbytes()
            most = max(most, held)
    return most


def measure_step(
    module, samples: list[Sample], batch_size: int, folder: Path, batch: int = 1, **options
) -> MeasuredStep:
    """Trains for a few batches, and measures one of them."""
    measured = MeasuredStep(batch)
    options = {"accelerator": "cpu", "devices": 1, **options}
    trainer = lightning.Trainer(
        max_epochs=1,
        limit_train_batches=batch + 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[measured],
        **options,
    )
    trainer.fit(module, datamodule=Given(samples, encoder=module.encoder, batch_size=batch_size))
    return measured
