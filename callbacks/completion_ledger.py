"""Completions of ``predict`` as a ledger in Parquet."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from lit_vlm.callbacks.ledger_summary import summarise_ledger
from lit_vlm.callbacks.run_folder import is_trial_run, run_folder
from lit_vlm.functional.ledger_files import LedgerWriter, check_header, done_samples, is_ledger, read_header
from lit_vlm.interfaces.capabilities import LeavesOutPredicted, completions_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import DescribesCompletions, LedgerHeader
from lit_vlm.interfaces.records import Completion

FOLDER, SUMMARY = "ledger", "summary.json"
INDIFFERENT = {
    "model": {"optimizer", "limits", "budget", "cache", "failed"},
    "data": {
        "batch_size",
        "evaluation_batch_size",
        "num_workers",
        "batching",
        "max_batch_tokens",
        "prefetch_bytes",
        "bad_samples",
        "bad_samples_limit",
    },
}
"""Settings that may change while a ledger is written, since no completion depends on them."""


class CompletionLedger(Callback):
    """Streams every completion of ``predict`` into a ledger, a part file for each batch, and tells pass@k at the end.

    A run that was killed goes on where ``path`` names its ledger again: samples that are done are passed by, also with
    other batches or another number of ranks. All ranks write into one folder. A ledger of another model, template,
    configuration or seed is refused.

    Args:
        path: Folder of the ledger; by default ``ledger`` in the run's folder.
        base: Ledger of a base model on the same samples, to tell what this model solves beside it.
    """

    def __init__(self, path: str | None = None, base: str | None = None) -> None:
        self.path = path
        self.base = None if base is None else Path(base)
        self.configuration: Mapping[str, Any] | None = None
        """Resolved settings of model and data, from which ``config_hash`` is made; the command line fills it in."""
        self.folder = Path()
        """Where the ledger is, once the Trainer is set up."""
        self._active = False
        self._done: set[str] = set()
        self._seen: set[str] = set()
        self._written = 0
        self._writer: LedgerWriter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds what is done already and has the data leave it out.

        Raises:
            UserError: What is there cannot be gone on with, the module or its data do not serve a ledger, or there is
                no base.
        """
        self._active = stage == "predict" and not is_trial_run(trainer)
        if not self._active:
            return
        self.folder = Path(self.path) if self.path is not None else run_folder(trainer) / FOLDER
        if self.base is not None:
            read_header(self.base)
        if not isinstance(pl_module, DescribesCompletions):
            raise UserError(
                f"{type(pl_module).__name__} does not tell what its completions come from, which a ledger holds; "
                "write JSON lines with the callback PredictionWriter"
            )
        self._done = done_samples(self.folder) if is_ledger(self.folder) else set()
        self._seen, self._written = set(), 0
        if self._done:
            data = trainer.datamodule  # type: ignore[attr-defined]
            if not isinstance(data, LeavesOutPredicted):
                raise UserError(
                    f"the ledger {str(self.folder)!r} is begun, but {type(data).__name__} cannot leave out what is "
                    "done; give another CompletionLedger.path"
                )
            data.leave_out(frozenset(self._done))

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the ledger or goes on with it; the module's weights are set by now.

        Raises:
            UserError: It was written by something else, or another run writes to it.
        """
        if not self._active or not isinstance(pl_module, DescribesCompletions):
            return
        header = self._header(trainer, pl_module)
        if is_ledger(self.folder):
            check_header(self.folder, header)  # on each rank, so that all of them end
        if trainer.is_global_zero:
            self._writer = LedgerWriter(self.folder, header)
            done = f", of which {len(self._done):,} samples are done" if self._done else ""
            print(f"writing completions to the ledger {self.folder}{done}", flush=True)
        trainer.strategy.barrier("ledger_begun")
        if not trainer.is_global_zero:
            self._writer = LedgerWriter(self.folder, header, trainer.global_rank)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the completions of a batch, which are on disk when this returns.

        Raises:
            UserError: Two samples have one id.
        """
        if self._writer is not None:
            completions = self._unwritten(completions_of(outputs))
            self._writer.write(completions)
            self._written += len(completions)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the ledger and tells its figures.

        Raises:
            UserError: Rank 0 does not see what others wrote, or the base was asked other samples.
        """
        if self._writer is None:
            return
        self._close()
        written = torch.tensor(self._written, device=trainer.strategy.root_device)
        total = int(trainer.strategy.reduce(written, reduce_op="sum"))
        if trainer.is_global_zero:
            self._tell(total)
        trainer.strategy.barrier("ledger_told")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the ledger, which keeps what was written, and says how to go on."""
        if self._writer is not None:
            self._close()
            if trainer.is_global_zero:
                print(
                    f"the ledger keeps what was written; to go on, add --trainer.callbacks+=CompletionLedger "
                    f"--trainer.callbacks.path={self.folder}",
                    flush=True,
                )

    def _header(self, trainer: Trainer, module: DescribesCompletions) -> LedgerHeader:
        data = trainer.datamodule  # type: ignore[attr-defined]
        configuration = self.configuration or {"model": type(module).__name__, "data": type(data).__name__}
        header = replace(
            module.ledger_header(),
            config_hash=config_hash(configuration),
            split=str(getattr(data, "predict_split", "")),
        )
        broadcast: LedgerHeader = trainer.strategy.broadcast(header)
        return broadcast

    def _unwritten(self, completions: Sequence[Completion]) -> list[Completion]:
        left = [completion for completion in completions if completion.sample.id not in self._done]
        places = Counter((completion.sample.id, completion.index) for completion in left)
        for (sample_id, _), count in places.items():
            if count > 1 or sample_id in self._seen:
                raise UserError(
                    f"several samples are called {sample_id!r}, so that nobody could tell their completions apart; "
                    "give each sample an id of its own"
                )
        self._seen.update(sample_id for sample_id, _ in places)
        return left

    def _tell(self, total: int) -> None:
        summary = summarise_ledger(self.folder, self.base)
        missing = total + len(self._done) * read_header(self.folder).completions - summary.completions
        if missing:
            raise UserError(
                f"rank 0 does not see {missing:,} of the completions in {str(self.folder)!r}; let "
                "CompletionLedger.path lie in a folder that all machines share"
            )
        partial = self.folder / f".{SUMMARY}"
        partial.write_text(json.dumps(summary.to_json(), indent=2), encoding="utf-8")
        os.replace(partial, self.folder / SUMMARY)
        before = f", {summary.completions:,} of {summary.samples:,} samples in all" if self._done else ""
        print(f"wrote {total:,} completions to the ledger {self.folder}{before}", flush=True)
        print("\n".join(summary.lines()), flush=True)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def config_hash(configuration: Mapping[str, Any]) -> str:
    """Hashes settings of model and data, but for those that no completion depends on.

    Args:
        configuration: By ``model`` and ``data``, each a name or ``class_path`` with ``init_args``.

    Returns:
        32 hexadecimal digits.
    """
    told = {}
    for part, settings in configuration.items():
        if isinstance(settings, Mapping) and isinstance(settings.get("init_args"), Mapping):
            arguments = {
                name: value for name, value in settings["init_args"].items() if name not in INDIFFERENT.get(part, ())
            }
            settings = {**settings, "init_args": arguments}
        told[part] = settings
    return hashlib.blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
