"""Writes a merged model as a folder: weights, configuration, tokenizer, report and model card."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lit_vlm.functional.shard_writer import ShardWriter, TensorSpec, parse_size
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.merging.companion_files import copy_companions, write_configuration
from lit_vlm.merging.merge_plan import MergePlan
from lit_vlm.merging.merge_report import FigureLog, write_report
from lit_vlm.merging.merge_run import bytes_read, merged_weights, refuse_zero_deltas
from lit_vlm.merging.model_card import MergeSource, model_card
from lit_vlm.merging.read_ahead import read_ahead
from lit_vlm.merging.weight_figures import WeightFigures

CARD = "README.md"
Advance = Callable[[WeightFigures], None]


@dataclass(frozen=True)
class MergeSummary:
    """What a merge has written."""

    output: Path
    merged: int
    kept: int
    taken_over: int
    """Weights that an earlier merge, which was stopped, had written."""
    seconds: float
    bytes_read: int
    """Of weights; hashing reads the files besides."""
    bytes_written: int

    @property
    def outcome(self) -> str:
        """How many weights were merged and kept."""
        return f"{self.merged} weights merged, {self.kept} kept as they are in the target"


def write_merge(plan: MergePlan, output: Path, recipe: str, advance: Advance | None = None) -> MergeSummary:
    """Writes a merged model; the folder appears complete or not at all, and a merge that was stopped goes on.

    Args:
        plan: What is merged how.
        output: The folder; absent or empty.
        recipe: The resolved configuration, YAML, for the model card.
        advance: Called with every weight that is written.

    Raises:
        UserError: The folder holds something, a weight holds NaN or infinity, or a donor adds nothing.
    """
    begin = time.perf_counter()
    specs = [TensorSpec(planned.place.name, planned.dtype, planned.shape) for planned in plan.outputs]
    fingerprint = merge_fingerprint(plan)
    with (
        hashed_sources(plan) as sources,
        ShardWriter(output, specs, parse_size(plan.settings.largest_shard), fingerprint) as writer,
    ):
        unwritten = {spec.name: spec.size for spec in writer.unwritten()}
        log = FigureLog(writer.partial, unwritten)
        for weight in read_ahead(merged_weights(plan, only=unwritten)):
            log.add(weight.figures)
            writer.write(weight.planned.place.name, weight.tensor)
            if advance is not None:
                advance(weight.figures)
            del weight
        refuse_zero_deltas(log.known, plan.donor_labels)
        summary = MergeSummary(
            output=output,
            merged=sum(figures.merged for figures in log.known),
            kept=sum(not figures.merged for figures in log.known),
            taken_over=len(specs) - len(unwritten),
            seconds=time.perf_counter() - begin,
            bytes_read=sum(bytes_read(plan, planned) for planned in plan.outputs if planned.place.name in unwritten),
            bytes_written=sum(unwritten.values()),
        )

        def add_files(folder: Path) -> None:
            write_configuration(plan.target.configuration, folder, plan.settings.dtype, plan.unties)
            copy_companions(plan.target.folder, folder)
            further = {"seconds": round(summary.seconds, 3), "taken_over": summary.taken_over}
            operation = str(plan.settings.operation)
            write_report(folder, operation, plan.donor_labels, sources(), log.known, plan.warnings, further)
            card = model_card(
                output.name, type(plan.settings.operation).__name__, sources(), recipe, summary.outcome,
                warnings=plan.warnings,
            )  # fmt: skip
            (folder / CARD).write_text(card, encoding="utf-8")
            log.remove()

        writer.finish(add_files)
    return summary


def merge_fingerprint(plan: MergePlan) -> str:
    """Tells merges apart: settings, and name, size and time of every file that weights come from."""
    told = [repr(plan.settings)]
    folders = [(role, source.folder) for role, source in plan.sources.items()]
    for donor in plan.settings.donors:
        for reference in (donor.model, donor.base):
            if isinstance(reference, ModelReference) and reference.adapter is not None:
                folders.append(("adapter", Path(reference.adapter)))
    for role, folder in folders:
        for file in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"))):
            state = file.stat()
            told.append(f"{role} {file.name} {state.st_size} {state.st_mtime_ns}")
    return sha256("\n".join(told).encode()).hexdigest()


@contextmanager
def hashed_sources(plan: MergePlan) -> Iterator[Callable[[], list[MergeSource]]]:
    """Hashes the files of all sources while something else is done; the function that is given waits for the end."""
    distinct = {id(source): source for source in plan.sources.values()}
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="hash") as thread:
        digests = {key: thread.submit(source.digests) for key, source in distinct.items()}
        try:
            yield lambda: [
                MergeSource(role, source.label, digests[id(source)].result()) for role, source in plan.sources.items()
            ]
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
