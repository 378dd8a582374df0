"""Tells at the end of a run what it changed: exact match before and after, and the same samples as pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from lit_vlm.callbacks.contact_sheet import draw_contact_sheet
from lit_vlm.callbacks.run_folder import run_folder
from lit_vlm.interfaces.capabilities import completions_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion

METRIC = "validation/exact_match"


class BeforeAfterReport(Callback):
    """Compares the validation before the first step with the last one.

    The figures from before come from Lightning's sanity check, which must see the whole validation set
    (``trainer.num_sanity_val_steps: -1``). Writes ``report.json`` and ``contact_sheet.png`` into the run's folder.

    Args:
        rows: Samples on the contact sheet, at least 1.
        next_commands: Commands to suggest at the end.
    """

    def __init__(self, rows: int = 24, next_commands: Sequence[str] = ()) -> None:
        if rows < 1:
            raise UserError(f"BeforeAfterReport.rows is {rows}; give at least 1")
        self.rows = rows
        self.next_commands = tuple(next_commands)
        self._figures: dict[str, dict[str, float]] = {}
        self._completions: dict[str, list[Completion]] = {"before": [], "after": []}
        self._tokens_per_second = 0.0
        self._start = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that there will be figures from before.

        Raises:
            UserError: The sanity check does not see the whole validation set.
        """
        if stage == "fit" and trainer.num_sanity_val_steps != float("inf"):
            raise UserError("BeforeAfterReport needs the figures from before: set trainer.num_sanity_val_steps to -1")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a set of completions anew."""
        self._completions[_moment(trainer)] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first completions."""
        kept = self._completions[_moment(trainer)]
        kept += completions_of(outputs)[: self.rows - len(kept)]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the figures."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._tokens_per_second = figures.get("train/tokens_per_second", 0.0)
        self._figures[_moment(trainer)] = {name: figures[name] for name in figures if name.startswith("validation/")}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table and writes both files."""
        if not trainer.is_global_zero or not {"before", "after"} <= self._figures.keys():
            return
        seconds = time.perf_counter() - self._start
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder, seconds)
        console = Console()
        console.print(self.table())
        console.print(f"{seconds:.0f} s of training and validation, {self._tokens_per_second:,.0f} tokens/s")
        console.print(f"pictures: {folder / 'contact_sheet.png'}    figures: {folder / 'report.json'}", soft_wrap=True)
        if self.next_commands:
            console.print("\nTry next:")
            for command in self.next_commands:
                console.print(f"  {command}", soft_wrap=True, highlight=False)

    def table(self) -> Table:
        """Builds the comparison, overall and by task."""
        total = int(self._figures["after"].get(f"{METRIC}_total", 0))
        table = Table(title=f"Exact match on {total} held-out questions (95 % intervals)")
        for column in ("task", "before", "after", "gain"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for name in [METRIC, *self._tasks()]:
            task = "all" if name == METRIC else name.removeprefix(f"{METRIC}/")
            gain = self._figures["after"][name] - self._figures["before"][name]
            mark = "intervals apart" if self.intervals_apart(name) else "intervals overlap"
            style = "bold" if name == METRIC else None
            cells = (self._cell("before", name), self._cell("after", name), f"{100 * gain:+.1f} points, {mark}")
            table.add_row(task, *cells, style=style, end_section=name == METRIC)
        return table

    def intervals_apart(self, name: str = METRIC) -> bool:
        """Says whether the interval after training lies wholly above or below the one before."""
        before, after = self._figures["before"], self._figures["after"]
        return after[f"{name}_low"] > before[f"{name}_high"] or after[f"{name}_high"] < before[f"{name}_low"]

    def _tasks(self) -> list[str]:
        endings = ("_low", "_high", "_total")
        tasks = [
            name for name in self._figures["after"] if name.startswith(f"{METRIC}/") and not name.endswith(endings)
        ]
        return [name for name in tasks if name in self._figures["before"]]

    def _cell(self, moment: str, name: str) -> str:
        figures = self._figures[moment]
        low, high = figures[f"{name}_low"], figures[f"{name}_high"]
        return f"{100 * figures[name]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

    def _write(self, folder: Path, seconds: float) -> None:
        report = {
            **self._figures,
            "gain": self._figures["after"][METRIC] - self._figures["before"][METRIC],
            "intervals_apart": self.intervals_apart(),
            "seconds": seconds,
            "tokens_per_second": self._tokens_per_second,
        }
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        pairs = zip(self._completions["before"], self._completions["after"], strict=False)
        sheet = draw_contact_sheet([[("before: ", before), ("after: ", after)] for before, after in pairs])
        sheet.save(folder / "contact_sheet.png")


def _moment(trainer: Trainer) -> str:
    return "before" if trainer.sanity_checking else "after"
