"""Predictions as JSON lines."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any, TextIO

from lightning import Callback, LightningModule, Trainer

from lit_vlm.callbacks.readable_numbers import percent_text
from lit_vlm.callbacks.run_folder import run_folder
from lit_vlm.interfaces.capabilities import completions_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion


class PredictionWriter(Callback):
    """Writes each completion of ``predict`` as one line of JSON, batch by batch, without its images.

    What was written before an interruption stays. Under several ranks each writes a file of its own beside
    (``predictions.rank0.jsonl``, ...), and rank 0 deals them into one in the order of the samples, which ranks hold in
    turn (rank ``r`` of ``W`` has samples ``r``, ``r + W``, ...). A file is never overwritten.

    Args:
        path: File to write; by default ``predictions.jsonl`` in the run's folder.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._target = Path()
        self._parts: list[Path] = []
        self._file: TextIO | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settles the files' names and checks that none exists.

        Raises:
            UserError: The file is there already, or a rank's file of an interrupted run.
        """
        if stage != "predict":
            return
        folder = run_folder(trainer)
        self._target = Path(self.path) if self.path is not None else folder / "predictions.jsonl"
        ranks = range(trainer.world_size) if trainer.world_size > 1 else ()
        self._parts = [self._target.with_name(f"{self._target.stem}.rank{rank}{self._target.suffix}") for rank in ranks]
        for path in (self._target, *self._parts):
            if path.exists():
                raise UserError(
                    f"predictions would overwrite {str(path)!r}; give another PredictionWriter.path or move it away"
                )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens this rank's file."""
        path = self._parts[trainer.global_rank] if self._parts else self._target
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("x", encoding="utf-8", newline="\n")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the completions of a batch and hands them to the system at once."""
        if self._file is not None:
            self._file.writelines(f"{json_line(completion)}\n" for completion in completions_of(outputs))
            self._file.flush()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the files, joins those of several ranks and says what was written."""
        self._close()
        trainer.strategy.barrier("predictions_written")
        if trainer.is_global_zero:
            if self._parts:
                merge_in_turn(self._parts, self._target)
            print(_summary(self._target), flush=True)
        trainer.strategy.barrier("predictions_merged")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes this rank's file, which keeps what was written."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def json_line(completion: Completion) -> str:
    """Writes a completion as one line of strict JSON, without the line's end."""
    record = completion.to_json()
    # JSON knows no infinity: the log-probability of an impossible token is written as null.
    if record["log_prob_sum"] is not None and not math.isfinite(record["log_prob_sum"]):
        record["log_prob_sum"] = None
    # A ground truth may be of any type (a fraction, say); hours of predicting must not end at one.
    return json.dumps(record, ensure_ascii=False, allow_nan=False, default=str)


def merge_in_turn(parts: list[Path], target: Path) -> None:
    """Deals the lines of files into one, a line of each in turn, and removes them; ``target`` appears complete.

    Raises:
        UserError: A file cannot be seen from here.
    """
    missing = [str(part) for part in parts if not part.is_file()]
    if missing:
        raise UserError(
            f"rank 0 cannot see the predictions {missing}; let PredictionWriter.path lie in a folder that all machines "
            "share, or join the ranks' files by hand"
        )
    partial = target.with_name(f".{target.name}.partial")
    files = [part.open(encoding="utf-8", newline="\n") for part in parts]
    with partial.open("w", encoding="utf-8", newline="\n") as merged:
        for lines in itertools.zip_longest(*files, fillvalue=""):
            merged.writelines(lines)
    for file in files:
        file.close()
    partial.rename(target)
    for part in parts:
        part.unlink()


def _summary(path: Path) -> str:
    total = judged = right = 0
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            correct = json.loads(line)["correct"]
            total += 1
            judged += correct is not None
            right += correct is True
    share = f", exact match {percent_text(right / judged)} ({right} of {judged})" if judged else ""
    return f"wrote {total} predictions to {path}{share}"
