"""Writes the completions of ``predict`` as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from lightning import Callback, LightningModule, Trainer

from lit_vlm.callbacks.run_folder import run_folder
from lit_vlm.interfaces.capabilities import completions_of
from lit_vlm.interfaces.errors import UserError


class PredictionWriter(Callback):
    """Streams completions to a file as they come; ranks write files of their own, joined at the end.

    Args:
        path: File to write; ``predictions.jsonl`` in the run's folder by default. It must not exist yet.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._counts = {"written": 0, "judged": 0, "correct": 0}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks before anything is generated that nothing would be overwritten.

        Raises:
            UserError: The file exists.
        """
        if stage == "predict" and self._target(trainer).exists():
            raise UserError(f"PredictionWriter.path: {self._target(trainer)} exists; name another file or move it")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens this rank's file."""
        target = self._target(trainer)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part(target, trainer.global_rank).open("w", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch, so that a run that is cut short keeps what it has."""
        if self._file is None:
            return
        for completion in completions_of(outputs):
            print(json.dumps(completion.to_json(), ensure_ascii=False), file=self._file)
            self._counts["written"] += 1
            self._counts["judged"] += completion.verdict is not None
            self._counts["correct"] += completion.verdict is not None and completion.verdict.correct
        self._file.flush()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Joins the parts in sample order and says where they are."""
        if self._file is not None:
            self._file.close()
        trainer.strategy.barrier("predictions")
        if not trainer.is_global_zero:
            return
        target = self._target(trainer)
        parts = [self._part(target, rank) for rank in range(trainer.world_size)]
        lines = [part.read_text(encoding="utf-8").splitlines() for part in parts]
        # Sample k was dealt to rank k modulo the number of ranks.
        ordered = [rank[row] for row in range(max(map(len, lines))) for rank in lines if row < len(rank)]
        joined = target.with_name(f".{target.name}.partial")
        joined.write_text("".join(f"{line}\n" for line in ordered), encoding="utf-8")
        joined.rename(target)
        for part in parts:
            part.unlink()
        print(f"{len(ordered)} completions written to {target}{self._score(trainer)}")

    def _score(self, trainer: Trainer) -> str:
        judged = self._counts["judged"]
        if not judged:
            return ""
        whose = "" if trainer.world_size == 1 else " (this rank)"
        return f"; exact match {self._counts['correct'] / judged:.1%} of {judged}{whose}"

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.path) if self.path is not None else run_folder(trainer) / "predictions.jsonl"

    @staticmethod
    def _part(target: Path, rank: int) -> Path:
        return target.with_name(f"{target.stem}.rank{rank}{target.suffix}")
