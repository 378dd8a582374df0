"""Tells which samples a run left out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from lit_vlm.callbacks.run_folder import is_trial_run, run_folder
from lit_vlm.interfaces.batches import CompletionSet, EvaluationBatch, PromptBatch
from lit_vlm.interfaces.errors import TooManyBadSamplesError
from lit_vlm.interfaces.records import BadSample

LISTED = 10
"""Bad samples printed; the file has all."""
FILE = "bad_samples.jsonl"


class BadSampleReport(Callback):
    """Lists at the end the samples that batches name as dropped, and writes them to ``bad_samples.jsonl``.

    Each is counted once, however many epochs left it out. The file lies in the run's folder and has a line of JSON for
    each: the split, where the sample stands (``origin``) and what is wrong (``reason``). Where nothing was left out,
    nothing is printed or written. In a run that ends by an error each rank writes what it met, the first to the same
    file, rank 1 to ``bad_samples.rank1.jsonl``, and so on.
    """

    def __init__(self) -> None:
        self._met: dict[tuple[str, str], BadSample] = {}
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settles the folder; every rank must take part."""
        self._folder = run_folder(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes what was left out of a training batch."""
        self._note("train", batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Notes what was left out of a validation batch."""
        self._note("validation", batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Notes what was left out of a test batch."""
        self._note("test", batch)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Notes what was left out of a batch to predict."""
        self._note("test", batch)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts together what all ranks met; the first writes and prints it."""
        for met in _from_all_ranks(self._met):
            self._met.update(met)
        if trainer.is_global_zero and self._met:
            print("\n".join([self._write(trainer, FILE), *summary_lines(list(self._met.values()))]), flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes what this rank met, and where there were too many all of them; other ranks may not answer any more."""
        if isinstance(exception, TooManyBadSamplesError):
            self._add(_split_in_progress(trainer), exception.bad_samples)
        if self._met:
            name = FILE if trainer.is_global_zero else f"bad_samples.rank{trainer.global_rank}.jsonl"
            print(self._write(trainer, name), flush=True)

    def state_dict(self) -> dict[str, Any]:
        """Returns what the first rank met."""
        return {"met": [[split, bad.origin, bad.reason] for (split, _), bad in self._met.items()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the list of an earlier run."""
        for split, origin, reason in state_dict["met"]:
            self._add(split, [BadSample(origin, reason)])

    def _note(self, split: str, batch: Any) -> None:
        prompts = batch.complete if isinstance(batch, EvaluationBatch) else batch
        if isinstance(prompts, PromptBatch | CompletionSet):
            self._add(split, prompts.dropped)

    def _add(self, split: str, bad_samples: Iterable[BadSample]) -> None:
        self._met.update(((split, bad.origin), bad) for bad in bad_samples)

    def _write(self, trainer: Trainer, name: str) -> str:
        """Writes the file, and says how many there are and where they are listed."""
        number = "1 bad sample was" if len(self._met) == 1 else f"{len(self._met):,} bad samples were"
        if is_trial_run(trainer):
            return f"{number} left out"
        rows = [{"split": split, "origin": bad.origin, "reason": bad.reason} for (split, _), bad in self._met.items()]
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return f"{number} left out, listed in {path}"


def summary_lines(bad_samples: list[BadSample]) -> list[str]:
    """Words the first bad samples, one a line, and how many more there are.

    Example:
        >>> summary_lines([BadSample("data.jsonl, line 3", "it has no messages")])
        ['  data.jsonl, line 3: it has no messages']
    """
    lines = [f"  {bad.origin}: {bad.reason}" for bad in bad_samples[:LISTED]]
    more = len(bad_samples) - len(lines)
    return [*lines, f"  and {more:,} more"] if more else lines


def _split_in_progress(trainer: Trainer) -> str:
    if trainer.validating or trainer.sanity_checking:
        return "validation"
    return "test" if trainer.testing or trainer.predicting else "train"


Met = dict[tuple[str, str], BadSample]


def _from_all_ranks(met: Met) -> list[Met]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [met]
    gathered: list[Met] = [met] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, met)
    return gathered
