"""The figures of a pipeline by round and stage: read from its runs, set as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_vlm.callbacks.before_after_figures import OVERALL, read_figures
from lit_vlm.callbacks.completion_ledger import FOLDER, SUMMARY
from lit_vlm.callbacks.figures_file import FIGURES
from lit_vlm.callbacks.readable_numbers import duration_text
from lit_vlm.command_line.pipeline_plan import StageRun
from lit_vlm.command_line.pipeline_runs import read_marker

SPLITS = ("test", "predict", "validation", "train")
"""Whose figure counts, the first of them that a run has."""


def run_figures(run: StageRun) -> dict[str, float | None]:
    """Reads what a run has logged last, and what is told of a ledger that it wrote; nothing of a merge."""
    figures: dict[str, float | None] = _read(run.folder / FIGURES)
    for name, value in _read(run.folder / FOLDER / SUMMARY).items():
        if isinstance(value, dict) and {"value", "low", "high", "samples"} <= value.keys():
            ends = {"": "value", "_low": "low", "_high": "high", "_total": "samples"}
            figures |= {f"predict/{name}{end}": float(value[key]) for end, key in ends.items()}
        elif isinstance(value, int | float):
            figures[f"predict/{name}"] = float(value)
    return figures


def write_figures(plan: Sequence[StageRun], folder: Path) -> Path:
    """Writes all figures of the runs that are done as one file."""
    records: list[dict[str, Any]] = []
    for run in plan:
        marker = read_marker(run)
        if marker is not None:
            told = {"round": run.round, "stage": run.stage.name, "verb": run.stage.verb, "seconds": marker["seconds"]}
            records.append({**told, "figures": run_figures(run)})
    path = folder / FIGURES
    path.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def figures_table(plan: Sequence[StageRun], names: Sequence[str]) -> str:
    """Sets the figures of the runs that are done as a table, a row each.

    Shares that have an interval are in %, with it; other numbers stand as they are.
    """
    shown = [(run, marker, run_figures(run)) for run in plan if (marker := read_marker(run)) is not None]
    cells = [[cell(figures, name) for name in names] for _, _, figures in shown]
    # A column is left out where no run has the figure.
    kept = [column for column in range(len(names)) if any(row[column] for row in cells)]
    lines = [("round", "stage", "time", *(names[column] for column in kept))]
    for (run, marker, _), row in zip(shown, cells, strict=True):
        told = (str(run.round), run.stage.name, duration_text(marker["seconds"]))
        lines.append((*told, *(row[column] or "-" for column in kept)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def cell(figures: Mapping[str, float | None], name: str) -> str:
    """Writes one figure of a run; empty where it has none.

    Example:
        >>> cell({"test/exact_match": 0.5, "test/exact_match_low": 0.4, "test/exact_match_high": 0.6}, "exact_match")
        '50.0 [40.0, 60.0]'
        >>> cell({"validation/loss": 0.25}, "loss")
        '0.25'
    """
    for split in SPLITS:
        logged = {
            key.removeprefix(f"{split}/"): value
            for key, value in figures.items()
            if key.startswith(f"{split}/") and value is not None
        }
        if name in logged:
            figure = read_figures(logged, name)[OVERALL]
            return f"{figure.mean:.4g}" if figure.low is None else str(figure)
    return ""
