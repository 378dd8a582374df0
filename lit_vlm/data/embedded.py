"""DataModules over the generators that ship with the package: nothing to download, truth known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, Split
from lit_vlm.interfaces.roles import SampleEncoder, TaskGenerator

THINK_FIRST = "Think in <think></think>, then answer in <answer></answer>."


class GeneratedSamples(Dataset[Sample]):
    """The first ``size`` samples of a split, made when asked for."""

    def __init__(self, generator: TaskGenerator, split: Split, size: int) -> None:
        self.generator = generator
        self.split: Split = split
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.generator.sample(self.split, index)

    def outline(self, index: int) -> Sample:
        """Tells the id, task and difficulty of a sample, without the rest where that is cheaper."""
        return self.generator.outline(self.split, index)


class EmbeddedDataModule(VLMDataModule):
    """Serves one or more generators, a batch from each by turns.

    Args:
        generators: Sources of samples; name one twice (with another seed) to double its share.
        encoder: Encodes for the model; the command line fills it in from ``model``.
        train_size: Training samples of an epoch.
        validation_size: Validation samples.
        test_size: Test samples.
        batch_size: Samples of a training micro-batch on each rank.
        evaluation_batch_size: Samples of a validation, test or predict batch on each rank.
        num_workers: Processes that draw and encode; 0 does so in the training process.
        system_prompt: Put before every sample; None adds nothing.
        options: How batches are put together and bad samples treated, see ``VLMDataModule``.
    """

    def __init__(
        self,
        generators: Sequence[TaskGenerator],
        encoder: SampleEncoder | None = None,
        *,
        train_size: int = 50_000,
        validation_size: int = 512,
        test_size: int = 1024,
        batch_size: int | None = 64,
        evaluation_batch_size: int = 128,
        num_workers: int = 2,
        system_prompt: str | None = THINK_FIRST,
        **options: Any,
    ) -> None:
        super().__init__(
            encoder,
            batch_size=batch_size,
            evaluation_batch_size=evaluation_batch_size,
            num_workers=num_workers,
            system_prompt=system_prompt,
            **options,
        )
        self._sizes: dict[Split, int] = {"train": train_size, "validation": validation_size, "test": test_size}
        for split, size in self._sizes.items():
            if size < 1:
                raise UserError(f"data.{split}_size is {size}; give at least 1")
        self._generators = tuple(generators)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks among the samples, in the order they are reported."""
        return tuple(dict.fromkeys(task for generator in self._generators for task in generator.tasks))

    @property
    def has_runs_of_one_kind(self) -> bool:
        """True for mixtures: one batch is of one generator, so that short rows are not padded to long ones."""
        return len(self._generators) > 1

    def samples(self, split: Split) -> Dataset[Sample]:
        """Returns the samples of a split, by index."""
        size = self._sizes[split]
        if len(self._generators) == 1:
            return GeneratedSamples(self._generators[0], split, size)
        if split != "train":
            return MixedSamples(self._generators, split, size, run=math.ceil(size / len(self._generators)))
        world_size = self.trainer.world_size if self.trainer else 1
        return MixedSamples(self._generators, split, size, run=(self.batch_size or 1) * world_size)


class MixedSamples(Dataset[Sample]):
    """Takes ``run`` samples from each of several generators by turns."""

    def __init__(self, generators: Sequence[TaskGenerator], split: Split, size: int, run: int) -> None:
        self.generators = tuple(generators)
        self.split: Split = split
        self.size = size
        self.run = run

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        generator, within = self._source(index)
        return generator.sample(self.split, within)

    def outline(self, index: int) -> Sample:
        """Tells the id, task and difficulty of a sample, without the rest where that is cheaper."""
        generator, within = self._source(index)
        return generator.outline(self.split, within)

    def _source(self, index: int) -> tuple[TaskGenerator, int]:
        turn, within = divmod(index, self.run)
        cycle, source = divmod(turn, len(self.generators))
        return self.generators[source], cycle * self.run + within


def check_choice(field: str, given: Sequence[object], known: Sequence[object]) -> None:
    """Refuses a setting that must hold one or more of the known values.

    Raises:
        UserError: It is empty or holds another; the message names both.
    """
    unknown = [item for item in given if item not in known]
    if unknown or not given:
        problem = f"holds {unknown}, which there is not" if unknown else "is empty"
        raise UserError(f"{field} {problem}; choose one or more of {list(known)}")
