"""Writes a trained model from a run's checkpoint: a folder that ``from_pretrained``, PEFT and vLLM load.

Weights go from the checkpoint to their place in a file one by one. The model itself is never in memory: its names,
shapes and configuration come from a skeleton on the device ``meta``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from lit_vlm.functional.shard_writer import ShardWriter, TensorSpec, parse_size
from lit_vlm.functional.training_checkpoint import TrainingCheckpoint
from lit_vlm.functional.whole_folder import whole_folder
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.segments import Hallucination as JudgingHead
from lit_vlm.interfaces.weights import TensorSource
from lit_vlm.models.adapter_tensors import AdapterTensors
from lit_vlm.models.adapters import add_adapter, save_adapter
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from lit_vlm.models.disk_names import disk_groups, memory_names, write_as_loaded, written_weights
from lit_vlm.models.parts import module_parts
from lit_vlm.models.run_weights import RunWeights
from lit_vlm.models.segment_classifier import save_segment_head

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Advance = Callable[[int], None]
"""Called with the bytes of every weight that is written."""


@dataclass(frozen=True)
class ExportSettings:
    """What an export is to hold."""

    adapter: Literal["keep", "merged"] | None = None
    """Whether an adapter is written alone, or a whole model with it merged in; None does as ``ExportModel`` would by
    ``model.backbone.adapter.export``."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the weights; None keeps that of the run."""
    shard_size: str = "5GB"
    """Largest file of weights."""
    overwrite: bool = False
    """Replaces a model that lies at the place of the export."""

    def __post_init__(self) -> None:
        parse_size(self.shard_size, "--shard_size")


@dataclass(frozen=True)
class ExportSummary:
    """What an export has written."""

    output: Path
    kind: Literal["model", "adapter"]
    weights: int
    size: int
    """Bytes of weights."""
    seconds: float


def writes_adapter(backbone: Backbone, settings: ExportSettings) -> bool:
    """Tells whether an export holds an adapter alone.

    Raises:
        UserError: The settings are about an adapter, and the run has none.
    """
    if backbone.adapter is None:
        if settings.adapter is not None:
            raise UserError(f"--adapter {settings.adapter}: this run trained no adapter; leave --adapter out")
        return False
    return {"keep": True, "merged": False, None: backbone.adapter.export == "adapter"}[settings.adapter]


def export_model(
    checkpoint: TrainingCheckpoint,
    backbone: Backbone,
    output: Path,
    settings: ExportSettings = ExportSettings(),
    judges: JudgingHead | None = None,
    extra_files: Callable[[Path], None] | None = None,
    advance: Advance | None = None,
) -> ExportSummary:
    """Writes a model; the folder appears complete or not at all.

    Args:
        checkpoint: The run's.
        backbone: What the run was told of its model.
        output: The folder.
        settings: What it is to hold.
        judges: What its head judges, of a model that has one in the place of words.
        extra_files: Puts further files into the folder before it has its name.
        advance: See ``Advance``.

    Raises:
        UserError: Checkpoint and model do not fit, or the folder holds something.
    """
    begin = time.perf_counter()
    alone = writes_adapter(backbone, settings)
    if alone and settings.dtype is not None:
        raise UserError("--dtype is for whole models; leave it out, or add --adapter merged")
    with whole_folder(output, settings.overwrite) as made:
        weights = RunWeights(checkpoint)

        def add_files(folder: Path) -> None:
            # Pixel bounds that the run was given are saved with the processor.
            backbone.load_encoder().processor.save_pretrained(folder)
            if judges is not None:
                save_segment_head(weights.segment_head(), backbone, judges, folder, is_adapter=alone)
            if extra_files is not None:
                extra_files(folder)

        if alone:
            count, size = _write_adapter(weights, backbone, made)
            add_files(made)
        elif backbone.adapter is None:
            count, size = _write_trained(weights, backbone, made, settings, add_files, advance)
        else:
            with _merged(weights, backbone) as source:
                count, size = _write_merged(source, checkpoint, backbone, made, settings, add_files, advance)
    return ExportSummary(output, "adapter" if alone else "model", count, size, time.perf_counter() - begin)


def _write_trained(
    weights: RunWeights, backbone: Backbone, made: Path, settings: ExportSettings,
    add_files: Callable[[Path], None], advance: Advance | None,
) -> tuple[int, int]:  # fmt: skip
    skeleton = backbone.skeleton()
    names = weights.fit(skeleton)
    write_as_loaded(skeleton, _names_of_base(backbone))
    kinds = {name: weights.dtype(stored) for name, stored in names.items()}
    writer = _ModelWriter(skeleton, kinds, settings)
    return writer.write(made, weights.checkpoint, lambda name: weights.read(names[name]), add_files, advance)


def _names_of_base(backbone: Backbone) -> Sequence[str] | None:
    """Lists the names on disk in the checkpoint that the run began with; None where it is not there any more."""
    if backbone.from_scratch or backbone.gguf_file is not None:
        return None
    try:
        return open_checkpoint(backbone.reference()).names
    except UserError as fault:
        logger.warning("weights are named as transformers saves new models, since of the base is told: %s", fault)
        return None


def _write_merged(
    source: TensorSource, checkpoint: TrainingCheckpoint, backbone: Backbone, made: Path, settings: ExportSettings,
    add_files: Callable[[Path], None], advance: Advance | None,
) -> tuple[int, int]:  # fmt: skip
    skeleton = backbone.skeleton()
    places = {name: disk for disk, name in memory_names(skeleton, source.names).items()}
    write_as_loaded(skeleton, source.names)
    kinds = {
        name: source.dtype(disk) if backbone.dtype == "auto" else DTYPES[backbone.dtype]
        for name, disk in places.items()
    }
    writer = _ModelWriter(skeleton, kinds, settings)
    with source.opened() as opened:
        return writer.write(made, checkpoint, lambda name: opened.read(places[name]), add_files, advance)


@contextmanager
def _merged(weights: RunWeights, backbone: Backbone) -> Iterator[TensorSource]:
    """Gives the weights of the base with the run's adapter in them, read one at a time."""
    # Merged into weights that are not quantised, so that their rounding is not saved.
    base = open_checkpoint(backbone.reference())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_adapter(weights, backbone, folder)
        yield AdapterTensors(base, folder)


def _write_adapter(weights: RunWeights, backbone: Backbone, folder: Path) -> tuple[int, int]:
    """Writes the adapter in PEFT's format; it is small enough to be in memory."""
    assert backbone.adapter is not None
    skeleton = backbone.skeleton()
    with torch.device("meta"), warnings.catch_warnings():
        # What the run went on with is not read again: its numbers are in the checkpoint.
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
        add_adapter(skeleton, module_parts(skeleton), backbone.adapter, backbone.source, backbone.revision)
    trained = {name: value for name, value in skeleton.named_parameters() if value.requires_grad}
    names = weights.fit_adapter(trained, skeleton.state_dict())
    state = {name: weights.read(stored) for name, stored in names.items()}
    skeleton.load_state_dict(state, strict=False, assign=True)
    save_adapter(skeleton, folder)
    return len(state), sum(value.nbytes for value in state.values())


class _ModelWriter:
    """Streams the weights of a model, and writes its configuration.

    Args:
        skeleton: The model on the device ``meta``, its names on disk decided.
        kinds: Name in memory -> type of the weight in the run.
        settings: Of the export.
    """

    def __init__(self, skeleton: Any, kinds: Mapping[str, torch.dtype], settings: ExportSettings) -> None:
        wanted = None if settings.dtype is None else DTYPES[settings.dtype]
        self._kinds = {
            name: wanted if wanted is not None and kind.is_floating_point else kind for name, kind in kinds.items()
        }
        # The configuration tells the type of the first weight, as save_pretrained has it.
        skeleton.to(self._kinds[next(name for name, _ in skeleton.named_parameters())])
        self._skeleton = skeleton
        self._settings = settings
        self._groups: list[tuple[list[TensorSpec], list[str]]] = []
        for group in disk_groups(skeleton):
            written = written_weights(
                skeleton, {name: torch.empty_like(group[name], dtype=self._kinds[name]) for name in group}
            )
            specs = [TensorSpec(name, value.dtype, tuple(value.shape)) for name, value in sorted(written.items())]
            self._groups.append((specs, list(group)))
        self._groups.sort(key=lambda group: group[0][0].name)

    def write(
        self,
        made: Path,
        checkpoint: TrainingCheckpoint,
        read: Callable[[str], Tensor],
        add_files: Callable[[Path], None],
        advance: Advance | None,
    ) -> tuple[int, int]:
        """Writes the folder; returns the number of weights and their bytes."""
        specs = [spec for described, _ in self._groups for spec in described]
        fingerprint = _fingerprint(checkpoint.path, self._settings)
        with ShardWriter(made, specs, parse_size(self._settings.shard_size), fingerprint) as writer:
            unwritten = {spec.name for spec in writer.unwritten()}
            for described, names in self._groups:
                due = [spec for spec in described if spec.name in unwritten]
                if not due:
                    continue
                tensors = written_weights(self._skeleton, {name: read(name).to(self._kinds[name]) for name in names})
                for spec in due:
                    writer.write(spec.name, tensors.pop(spec.name))
                    if advance is not None:
                        advance(spec.size)

            def finish(folder: Path) -> None:
                _write_configuration(self._skeleton, folder)
                add_files(folder)

            writer.finish(finish)
        return len(specs), sum(spec.size for spec in specs)


def _write_configuration(skeleton: Any, folder: Path) -> None:
    """Writes what ``save_pretrained`` writes beside weights: configuration, generation settings, code if it has any."""
    with tempfile.TemporaryDirectory() as name:
        with _no_progress_bar():
            skeleton.save_pretrained(name, state_dict={})
        for path in Path(name).iterdir():
            if not path.name.startswith("model.safetensors"):
                shutil.move(path, folder / path.name)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _fingerprint(checkpoint: Path, settings: ExportSettings) -> str:
    """Tells exports apart whose beginnings must not be mixed."""
    told = [repr(replace(settings, overwrite=False))]
    for path in sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]:
        state = path.stat()
        told.append(f"{path.name} {state.st_size} {state.st_mtime_ns}")
    return sha256("\n".join(told).encode()).hexdigest()
