"""A training step that went wrong, as a folder that holds what is needed to repeat it.

``fault.json`` says what happened and where, ``samples.jsonl`` has the samples (media under ``media/``), and
``batch_N.safetensors`` the tensors of the step's micro-batches. ``rollouts.safetensors`` has sampled completions with
what was made of them, and ``weights.safetensors`` the trained weights before the step; either may be absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_vlm.functional.media_store import MediaStore
from lit_vlm.functional.safetensors_folder import SafetensorsFolder, write_tensors
from lit_vlm.functional.sample_json import sample_from_json, sample_to_json
from lit_vlm.interfaces.batches import GroupBatch, PreferenceBatch, PromptBatch, StepTotals, TrainingBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample

FAULT, SAMPLES, MEDIA = "fault.json", "samples.jsonl", "media"
ROLLOUTS, WEIGHTS = "rollouts", "weights"
KINDS: Mapping[str, type[TrainingBatch]] = {kind.__name__: kind for kind in (GroupBatch, PreferenceBatch, PromptBatch)}
"""Batches that can be written."""


@dataclass(frozen=True)
class MicroBatch:
    """A batch of the step, and what became of it."""

    kind: str
    """Class of the batch, one of ``KINDS``."""
    index: int
    """Its number in the epoch."""
    seed: int
    """What torch's random numbers started from on this rank."""
    is_finite: bool
    """Whether its loss was."""
    sample_ids: tuple[str, ...]
    has_tensors: bool = True
    """Whether its tensors were kept; they are not where a step has too many bytes."""
    totals: tuple[int, int] | None = None
    """Labels and sequences of the whole step, where the loader knew them."""
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """What went wrong, and where in the run."""

    reason: str
    step: int
    """Optimizer steps taken before."""
    epoch: int
    rank: int
    world_size: int
    run_seed: int
    module: str
    """Class of the LightningModule."""
    precision: str
    micro_batches: tuple[MicroBatch, ...] = ()
    parameters: tuple[str, ...] = ()
    """Those whose gradients were not finite."""
    spoilt_weights: tuple[str, ...] = ()
    """Those that were not finite before the step."""
    weights_in: str | None = None
    """Folder beside this one that has the weights; None where no one kept them."""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FaultContents:
    """All that a folder holds."""

    fault: Fault
    batches: tuple[TrainingBatch, ...]
    """Those whose tensors were kept, in order."""
    rollouts: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]


def write_fault(
    folder: Path,
    fault: Fault,
    batches: Sequence[TrainingBatch],
    *,
    rollouts: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a folder; the description comes last, so that a folder with it is whole.

    Args:
        folder: Made anew.
        fault: What happened.
        batches: As many as ``fault.micro_batches``.
        rollouts: Tensors of sampled completions, by name.
        weights: Trained weights, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / SAMPLES).open("w", encoding="utf-8") as file:
        for number, batch in enumerate(batches):
            for line in _sample_lines(number, batch.samples, MediaStore(folder / MEDIA)):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    for number, (batch, said) in enumerate(zip(batches, fault.micro_batches, strict=True)):
        if said.has_tensors:
            write_tensors(folder / f"batch_{number}.safetensors", dict(named_tensors(batch)))
    for stem, tensors in ((ROLLOUTS, rollouts), (WEIGHTS, weights)):
        if tensors:
            write_tensors(folder / f"{stem}.safetensors", tensors)
    partial = folder / f".{FAULT}.partial"
    partial.write_text(json.dumps(asdict(fault), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, folder / FAULT)


def read_fault(folder: Path) -> FaultContents:
    """Reads what ``write_fault`` wrote.

    Raises:
        UserError: It is no such folder, or not one that this version knows.
    """
    try:
        content = json.loads((folder / FAULT).read_text(encoding="utf-8"))
        micro_batches = tuple(_micro_batch(entry) for entry in content.pop("micro_batches"))
        lists: dict[str, Any] = {name: tuple(content.pop(name)) for name in ("parameters", "spoilt_weights")}
        fault = Fault(micro_batches=micro_batches, **lists, **content)
    except (OSError, KeyError, TypeError, ValueError) as mistake:
        raise UserError(f"{folder} is no folder of a fault: {FAULT} is absent or not as written") from mistake
    samples = _read_samples(folder, len(micro_batches))
    batches = []
    for number, (said, owned) in enumerate(zip(micro_batches, samples, strict=True)):
        if said.has_tensors:
            batches.append(_batch(said, _read_tensors(folder, f"batch_{number}"), owned))
    return FaultContents(fault, tuple(batches), _read_tensors(folder, ROLLOUTS), _read_weights(folder, fault))


def named_tensors(batch: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a batch by their place in it, such as ``prompts.visual.pixel_values``."""
    values = {item.name: getattr(batch, item.name) for item in fields(batch)} if is_dataclass(batch) else batch
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, PromptBatch | dict):
            yield from named_tensors(value, f"{prefix}{name}.")


def bytes_of(batch: TrainingBatch) -> int:
    """Counts the bytes of a batch's tensors."""
    return sum(tensor.nbytes for _, tensor in named_tensors(batch))


def _sample_lines(number: int, samples: Sequence[Sample], media: MediaStore) -> Iterator[dict[str, Any]]:
    for sample in samples:
        line: dict[str, Any] = {"micro_batch": number, "id": sample.id, "origin": sample.meta.origin}
        try:
            line["sample"] = sample_to_json(sample, media)
        except (UserError, OSError) as reason:
            # The tensors are there all the same; a fault must be written whatever the sample holds.
            line["left_out"] = str(reason)
        yield line


def _read_samples(folder: Path, count: int) -> list[tuple[Sample, ...]]:
    found: list[list[Sample]] = [[] for _ in range(count)]
    with (folder / SAMPLES).open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            line = json.loads(text)
            if "sample" not in line:
                raise UserError(f"{folder / SAMPLES}, line {number}: sample {line['id']!r} was not kept")
            found[line["micro_batch"]].append(sample_from_json(line["sample"], MediaStore(folder / MEDIA)))
    return [tuple(samples) for samples in found]


def _micro_batch(entry: dict[str, Any]) -> MicroBatch:
    said = MicroBatch(**entry)
    if said.kind not in KINDS:
        raise ValueError(f"{said.kind} is no kind of batch")
    totals = None if said.totals is None else (int(said.totals[0]), int(said.totals[1]))
    return replace(said, sample_ids=tuple(said.sample_ids), digests=tuple(said.digests), totals=totals)


def _batch(said: MicroBatch, tensors: Mapping[str, Tensor], samples: tuple[Sample, ...]) -> TrainingBatch:
    totals = None if said.totals is None else StepTotals(*said.totals)
    if said.kind == PromptBatch.__name__:
        return _prompts(tensors, "", samples=samples, step_totals=totals)
    prompts = _prompts(tensors, "prompts.", samples=samples)
    others = {name: value for name, value in tensors.items() if "." not in name}
    kind: Any = KINDS[said.kind]
    batch: TrainingBatch = kind(prompts=prompts, step_totals=totals, digests=said.digests, **others)
    return batch


def _prompts(tensors: Mapping[str, Tensor], prefix: str, **others: Any) -> PromptBatch:
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    visual = {name.removeprefix("visual."): value for name, value in own.items() if name.startswith("visual.")}
    plain: dict[str, Any] = {name: value for name, value in own.items() if "." not in name}
    return PromptBatch(visual=visual, **plain, **others)


def _read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    if not (folder / f"{stem}.safetensors").is_file():
        return {}
    stored = SafetensorsFolder(folder, stem)
    return {name: stored.read(name) for name in stored.names}


def _read_weights(folder: Path, fault: Fault) -> dict[str, Tensor]:
    if fault.weights_in is None:
        return {}
    if Path(fault.weights_in).name != fault.weights_in:
        raise UserError(f"{folder / FAULT}: weights_in is {fault.weights_in!r}; it must be the name of a folder beside")
    return _read_tensors(folder.parent / fault.weights_in, WEIGHTS)
