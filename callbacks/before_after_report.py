"""What training has changed, in figures and pictures, when it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from rich import get_console

from lit_vlm.callbacks.before_after_figures import OVERALL, Comparison, compare, comparison_table, read_figures
from lit_vlm.callbacks.contact_sheet import draw_comparison_sheet
from lit_vlm.callbacks.readable_numbers import compact_number, duration_text
from lit_vlm.callbacks.run_folder import is_trial_run, run_folder
from lit_vlm.callbacks.training_tally import TalliesTraining
from lit_vlm.interfaces.capabilities import completions_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, Verdict

PREFIX = "validation/"


class BeforeAfterReport(TalliesTraining):
    """Compares the validation before the first step with the last one.

    Prints a table with 95 % intervals, the time and speed of training and the next commands to try; writes all numbers
    to ``report.json`` and the same held-out samples before and after to a picture, both in the run's folder. The
    figures of "before" come from the sanity check, which must run over the whole set, and are kept over a resume.
    Does nothing under ``trainer.fast_dev_run``.

    Args:
        metric: Share to compare, as validation logs it, without ``validation/``.
        also: Other shares, of which the table shows the overall figure below, such as ``pair_accuracy``.
        contact_sheet: File name of the picture.
        rows: First held-out samples (of rank 0) that the picture shows.
        next_commands: Printed at the end.
    """

    def __init__(
        self,
        metric: str = "exact_match",
        contact_sheet: str = "contact_sheet.png",
        rows: int = 24,
        next_commands: Sequence[str] = (),
        also: Sequence[str] = (),
    ) -> None:
        if rows < 1:
            raise UserError(f"BeforeAfterReport.rows is {rows}; give at least 1")
        super().__init__()
        self.metric = metric
        self.also = tuple(also)
        self.contact_sheet = contact_sheet
        self.rows = rows
        self.next_commands = tuple(next_commands)
        self._before: dict[str, Any] | None = None
        self._after: dict[str, Any] | None = None
        self._before_rows: dict[str, dict[str, Any]] = {}
        self._rows: list[Completion] = []
        self._folder = Path()
        self._active = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that there will be figures from before the first step.

        Raises:
            UserError: The sanity check is partial, or there is no validation.
        """
        self._active = stage == "fit" and not is_trial_run(trainer)
        if not self._active:
            return
        self._folder = run_folder(trainer)
        if not trainer.enable_validation:
            raise UserError(
                f"BeforeAfterReport needs validation, and there is none (trainer.limit_val_batches is "
                f"{trainer.limit_val_batches}); turn it on or remove BeforeAfterReport from trainer.callbacks"
            )
        if trainer.num_sanity_val_steps != float("inf"):
            raise UserError(
                "BeforeAfterReport needs the whole validation set before the first step, but "
                f"trainer.num_sanity_val_steps is {trainer.num_sanity_val_steps}; set it to -1"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins new rows; the clock of training stands."""
        super().on_validation_start(trainer, pl_module)
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first rows."""
        if self._active and trainer.is_global_zero:
            self._rows.extend(completions_of(outputs)[: self.rows - len(self._rows)])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the figures, as those before training or as the last ones so far.

        Raises:
            UserError: The first validation did not log the metric.
        """
        super().on_validation_end(trainer, pl_module)
        if not self._active:
            return
        metrics = {
            name.removeprefix(PREFIX): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(PREFIX)
        }
        figures = {"step": trainer.global_step, "metrics": metrics}
        if not trainer.sanity_checking:
            self._after = figures
            return
        # A run that resumes at the end of an epoch checks again; what the first run found is still "before".
        if self._before is not None and trainer.global_step > 0:
            return
        for option, name in (("metric", self.metric), *(("also", name) for name in self.also)):
            if name not in metrics:
                raise UserError(
                    f"BeforeAfterReport.{option} is {name!r}, which validation does not log; choose one of "
                    f"{sorted(metrics)}"
                )
        self._before = figures
        self._before_rows = {completion.sample.id: _outcome(completion) for completion in self._rows}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.tally.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch."""
        self.tally.add(batch, outputs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and prints the report."""
        self.tally.stop()
        if not self._active:
            return
        tokens, samples = (
            int(trainer.strategy.reduce(torch.as_tensor(count, device=pl_module.device), reduce_op="sum"))
            for count in (self.tally.tokens, self.tally.samples)
        )
        if not trainer.is_global_zero:
            return
        comparisons = compare(self._figures(self._before), self._figures(self._after))
        speed = tokens / self.tally.seconds if self.tally.seconds else 0.0
        record = {
            "metric": self.metric,
            "steps": trainer.global_step,
            "training_seconds": self.tally.seconds,
            "validation_seconds": self.tally.validation_seconds,
            "tokens": tokens,
            "samples": samples,
            "tokens_per_second": speed,
            "ranks": trainer.world_size,
            "comparison": {comparison.name: comparison.to_json() for comparison in comparisons},
            "before": _strict(self._before),
            "after": _strict(self._after),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        report = self._folder / "report.json"
        report.write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        picture = self._draw(trainer.global_step)
        self._print(trainer.global_step, comparisons, speed, [("report", report), ("before | after", picture)])

    def state_dict(self) -> dict[str, Any]:
        """Returns the figures so far, the completions from before training, and what training took."""
        return {
            "before": self._before,
            "before_rows": self._before_rows,
            "after": self._after,
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the report of an earlier run, whose sanity check is not repeated."""
        self._before = state_dict["before"]
        self._before_rows = state_dict["before_rows"]
        self._after = state_dict["after"]
        self.tally.load_state_dict(state_dict["tally"])

    def _figures(self, measured: dict[str, Any] | None) -> dict[str, Any]:
        if measured is None:
            return {}
        metrics = measured["metrics"]
        others = {name.replace("_", " "): read_figures(metrics, name).get(OVERALL) for name in self.also}
        return {**read_figures(metrics, self.metric), **{name: figure for name, figure in others.items() if figure}}

    def _draw(self, steps: int) -> Path | None:
        if self._after is None or not self._rows:
            return None
        pairs = [(_recall(self._before_rows.get(after.sample.id), after), after) for after in self._rows]
        path = self._folder / self.contact_sheet
        title = f"The same {len(pairs)} held-out samples before training and after {steps} steps"
        draw_comparison_sheet(pairs, title=title).save(path)
        return path

    def _print(
        self, steps: int, comparisons: Sequence[Comparison], speed: float, files: Sequence[tuple[str, Path | None]]
    ) -> None:
        lines = []
        if self._before is None:
            lines.append("nothing is known from before training: the run resumed a checkpoint without this report")
        elif self._before["step"] > 0:
            lines.append(f'"before" was measured where the run resumed, at step {self._before["step"]}')
        if self._after is None:
            lines.append(
                f"no validation ran in these {steps} steps, so there is nothing to compare with; "
                "lower trainer.val_check_interval"
            )
        elif self._after["step"] != steps:
            lines.append(f'"after" was measured at step {self._after["step"]} of {steps}')
        lines.append(
            f"trained {steps} steps in {duration_text(self.tally.seconds)} at {compact_number(speed)} tokens/s, "
            f"and validated for {duration_text(self.tally.validation_seconds)}"
        )
        lines.extend(f"{name}: {path}" for name, path in files if path is not None)
        if self.next_commands:
            lines.extend(["next:", *(f"  {command}" for command in self.next_commands)])
        console = get_console()
        totals = [item.after.total for item in comparisons if item.name == OVERALL and item.after and item.after.total]
        rows = f" on {totals[0]} samples" if totals else ""
        title = f"Held-out {self.metric.replace('_', ' ')}{rows}, in % with 95 % intervals"
        console.print(comparison_table(comparisons, title))
        # As they are: a wrapped path or command could not be copied.
        console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def _outcome(completion: Completion) -> dict[str, Any]:
    """Keeps of a completion what a checkpoint may hold: no image."""
    return {"text": completion.text, "verdict": None if completion.verdict is None else asdict(completion.verdict)}


def _strict(measured: dict[str, Any] | None) -> dict[str, Any] | None:
    """Writes what strict JSON lacks, as the perplexity of a diverged run, as null."""
    if measured is None:
        return None
    metrics = {name: value if math.isfinite(value) else None for name, value in measured["metrics"].items()}
    return {**measured, "metrics": metrics}


def _recall(outcome: dict[str, Any] | None, after: Completion) -> Completion | None:
    """Builds the completion from before, of the same sample as the one after."""
    if outcome is None:
        return None
    verdict = None if outcome["verdict"] is None else Verdict(**outcome["verdict"])
    return replace(after, text=outcome["text"], verdict=verdict)
