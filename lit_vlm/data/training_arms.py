"""Tells which training samples belong to which arm: a task, a level, or each its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, get_args, runtime_checkable

from torch.utils.data import Dataset

from lit_vlm.interfaces.capabilities import ArmKind, arm_of
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, Sample

KINDS: tuple[ArmKind, ...] = get_args(ArmKind)


@runtime_checkable
class OutlinesSamples(Protocol):
    """Samples whose id, task and level are known without making the rest."""

    def outline(self, index: int) -> Sample:
        """Tells the id, task and level of a sample."""


class TrainingArms:
    """Reads of every sample once which arms it belongs to, when first asked.

    Samples that cannot be read belong to none.

    Args:
        samples: Samples by index.
        refuse: Takes those that cannot be read; it may raise.
    """

    def __init__(self, samples: Dataset[Sample], refuse: Callable[[Sequence[BadSample]], None]) -> None:
        self._samples = samples
        self._refuse = refuse
        self._names: dict[int, tuple[str, ...]] | None = None
        self._indices: dict[ArmKind, dict[str, list[int]]] = {}

    def indices(self, by: ArmKind) -> Mapping[str, Sequence[int]]:
        """Lists the samples of each arm by index; arms are sorted by name, levels by number.

        Raises:
            UserError: There are no such arms, or a sample does not say which it belongs to.
        """
        if by not in KINDS:
            raise UserError(f"training samples cannot be drawn by {by!r}; choose one of {', '.join(KINDS)}")
        if by not in self._indices:
            arms: dict[str, list[int]] = {}
            for index, names in self._read().items():
                name = names[KINDS.index(by)]
                if not name:
                    raise UserError(self._nameless(index, by))
                arms.setdefault(name, []).append(index)
            by_number = by == "difficulty"
            self._indices[by] = {
                name: arms[name] for name in sorted(arms, key=lambda name: (int(name) if by_number else 0, name))
            }
        return self._indices[by]

    def _read(self) -> dict[int, tuple[str, ...]]:
        """Returns each sample's arm of every kind."""
        if self._names is None:
            read = self._samples.outline if isinstance(self._samples, OutlinesSamples) else self._samples.__getitem__
            names: dict[int, tuple[str, ...]] = {}
            bad: list[BadSample] = []
            for index in range(len(self._samples)):  # type: ignore[arg-type]
                try:
                    sample = read(index)
                except BadSampleError as fault:
                    bad.append(BadSample(fault.origin, fault.reason))
                else:
                    names[index] = tuple(arm_of(sample, kind) for kind in KINDS)
            self._refuse(bad)
            self._names = names
        return self._names

    def _nameless(self, index: int, by: ArmKind) -> str:
        sample = self._samples[index]
        field = "id" if by == "sample" else by
        return (
            f"data: the training sample {sample.meta.origin or sample.id or index} has no {field}, so that samples "
            f"cannot be drawn by it; give every sample one, of files by data.columns.{field}, or draw by another of "
            f"{', '.join(KINDS)}"
        )
