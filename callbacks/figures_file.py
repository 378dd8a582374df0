"""The last figures of a run as a file."""

from __future__ import annotations

import json
import math

from lightning import Callback, LightningModule, Trainer

from lit_vlm.callbacks.run_folder import is_trial_run, run_folder

FIGURES = "figures.json"


class FiguresFile(Callback):
    """Writes what a run has logged last of each figure to ``figures.json`` in its folder, when it ends.

    The names are those of the log, such as ``test/exact_match``; what is infinite or no number stands as null. The
    stages of a pipeline have this callback. Nothing is written under ``trainer.fast_dev_run``, or where a run fails.
    """

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file, on the first rank."""
        # On every rank: reading a figure may add it up over ranks.
        figures = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        folder = run_folder(trainer)
        if not trainer.is_global_zero or is_trial_run(trainer):
            return
        strict = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(strict, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / FIGURES).write_text(text + "\n", encoding="utf-8")
