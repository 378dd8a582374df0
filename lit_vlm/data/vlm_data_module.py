"""The base of every DataModule: samples in, encoded batches out."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lit_vlm.data.step_loader import ShardedBatches, StepLoader
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import EvaluationBatch, Message, Sample, Split, TextPart
from lit_vlm.interfaces.roles import SampleEncoder

Samples = Dataset[Sample]


class VLMDataModule(LightningDataModule):
    """Serves samples of any dataset, encoded for the model at hand.

    A subclass says which samples a split has (``samples``) and which tasks they belong to (``tasks``).

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        batch_size: Samples of a training micro-batch on each rank.
        evaluation_batch_size: Samples of a validation, test or predict batch on each rank.
        num_workers: Processes that decode and encode; 0 does so in the training process.
        system_prompt: Put before samples that have no system turn of their own; None adds nothing.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        batch_size: int = 8,
        evaluation_batch_size: int = 32,
        num_workers: int = 2,
        system_prompt: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("evaluation_batch_size", evaluation_batch_size)):
            if value < 1:
                raise UserError(f"data.{name} is {value}; give at least 1")
        if num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}; give 0 or more")
        self._encoder = encoder
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.num_workers = num_workers
        self.system_prompt = system_prompt

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks among the samples (``meta.category``), in the order they are reported."""

    @abstractmethod
    def samples(self, split: Split) -> Samples:
        """Returns the samples of a split, by index."""

    @property
    def has_runs_of_one_kind(self) -> bool:
        """Whether training samples are laid out in runs that should share a batch."""
        return False

    @property
    def encoder(self) -> SampleEncoder:
        """Encodes samples for the model.

        Raises:
            UserError: None was given.
        """
        if self._encoder is None:
            raise UserError(
                f"{type(self).__name__} needs an encoder; outside the command line pass encoder=model.encoder"
            )
        return self._encoder

    def setup(self, stage: str) -> None:
        """Checks that nobody else shards the data.

        Raises:
            UserError: Lightning's own distributed sampler is on while there are several processes.
        """
        if self.trainer and self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise UserError("this DataModule shards by rank itself; set trainer.use_distributed_sampler to false")

    def train_batches(self, world_size: int) -> int:
        """Counts the training batches of an epoch on each of ``world_size`` ranks."""
        return len(self._order(0, world_size))

    def train_dataloader(self) -> StepLoader:
        """Shuffled training batches with the label counts of their optimizer step."""
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

        def limit() -> int | None:
            batches = trainer.num_training_batches if trainer else None
            return int(batches) if batches is not None and batches != float("inf") else None

        return StepLoader(
            self._prepared("train"),
            self.encoder.encode,
            self._order(rank, world_size),
            accumulation=lambda: trainer.accumulate_grad_batches if trainer else 1,
            limit=limit,
            **self._loader_options(),
        )

    def val_dataloader(self) -> DataLoader[EvaluationBatch]:
        """Validation batches, in order."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[EvaluationBatch]:
        """Test batches, in order."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[EvaluationBatch]:
        """The test batches, to write completions for."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> DataLoader[EvaluationBatch]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        samples = self._prepared(split)
        collate: Callable[[Sequence[Sample]], EvaluationBatch] = self.encoder.encode_evaluation
        return DataLoader(
            cast("Dataset[EvaluationBatch]", samples),  # the collation makes batches of samples
            batch_size=self.evaluation_batch_size,
            sampler=range(rank, len(samples), world_size),
            collate_fn=collate,
            **self._loader_options(),
        )

    def _order(self, rank: int, world_size: int) -> ShardedBatches:
        return ShardedBatches(
            len(self._prepared("train")),
            self.batch_size,
            rank=rank,
            world_size=world_size,
            # Lightning's seed_everything leaves the run's seed here.
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
            shuffle_batches=self.has_runs_of_one_kind,
        )

    def _prepared(self, split: Split) -> _WithSystemPrompt:
        return _WithSystemPrompt(self.samples(split), self.system_prompt)

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": False,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        }


class _WithSystemPrompt(Dataset[Sample]):
    """Puts the system prompt before samples that have none."""

    def __init__(self, samples: Samples, system_prompt: str | None) -> None:
        self._samples = samples
        self._system_prompt = system_prompt

    def __len__(self) -> int:
        return len(self._samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        if self._system_prompt is None or any(message.role == "system" for message in sample.messages):
            return sample
        system = Message("system", (TextPart(self._system_prompt),))
        return replace(sample, messages=(system, *sample.messages))
