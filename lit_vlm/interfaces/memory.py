"""What a run's memory will hold, by moment and part, and who can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lit_vlm.interfaces.batches import TrainingBatch
from lit_vlm.interfaces.records import TokenCount


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of tensors on each device, as predicted before the first step."""

    phases: Mapping[str, Mapping[str, int]]
    """For each moment of a step the bytes of each part; parts of none are left out."""
    told: str = ""
    """What pass the figures are of, for the reader."""

    @property
    def peak_phase(self) -> str:
        """The moment that needs most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak(self) -> int:
        """Bytes of that moment."""
        return sum(self.phases[self.peak_phase].values())


@runtime_checkable
class PlansMemory(Protocol):
    """A module that predicts the memory of its training, once its model is loaded."""

    def memory_plan(self, batch: TrainingBatch) -> MemoryPlan | None:
        """Predicts what a training step on such a batch needs; None where it cannot tell.

        Args:
            batch: As the loader makes it; its tensors are measured, not read.
        """


@dataclass(frozen=True)
class FirstBatches:
    """The first training batches of a rank."""

    largest: TrainingBatch
    """The one with the most tokens, padding included."""
    tokens: tuple[TokenCount, ...]
    """Of each batch, without padding."""
    samples: tuple[int, ...]
    """Of each batch."""
    images: int
    """In all of them."""


@runtime_checkable
class OffersFirstBatches(Protocol):
    """A DataModule that can tell its first training batches before training."""

    def first_batches(self, most: int) -> FirstBatches | None:
        """Looks at the first batches of this rank, and leaves the order of samples as it is.

        Args:
            most: Batches to look at.

        Returns:
            None where none of them is of any use.
        """
