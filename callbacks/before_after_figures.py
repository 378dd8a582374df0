"""A share measured before and after training: read from logged metrics, compared, set as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

OVERALL = "overall"
"""Names the figure over all tasks."""


@dataclass(frozen=True)
class Figure:
    """A share in [0, 1]."""

    mean: float
    low: float | None = None
    """Lower bound of its 95 % interval, where known."""
    high: float | None = None
    """Upper bound, where known."""
    total: int | None = None
    """Rows it was measured on, where known."""

    def __str__(self) -> str:
        """Writes percentages without their sign: ``50.0 [46.5, 53.5]``."""
        mean = f"{100 * self.mean:.1f}"
        if self.low is None or self.high is None:
            return mean
        return f"{mean} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Comparison:
    """One task's figure before and after; None where it was not measured."""

    name: str
    before: Figure | None
    after: Figure | None

    @property
    def gain_points(self) -> float | None:
        """After minus before, in percentage points."""
        if self.before is None or self.after is None:
            return None
        return 100 * (self.after.mean - self.before.mean)

    @property
    def intervals_apart(self) -> bool | None:
        """Whether the two intervals share no value; None where one is unknown."""
        before, after = self.before, self.after
        if before is None or after is None or before.low is None or before.high is None:
            return None
        if after.low is None or after.high is None:
            return None
        return before.high < after.low or after.high < before.low

    def to_json(self) -> dict[str, Any]:
        """A flat record."""
        return {
            "before": None if self.before is None else asdict(self.before),
            "after": None if self.after is None else asdict(self.after),
            "gain_points": self.gain_points,
            "intervals_apart": self.intervals_apart,
        }


def read_figures(metrics: Mapping[str, float], metric: str) -> dict[str, Figure]:
    """Reads a metric, overall and by task, with its bounds.

    Args:
        metrics: Values by name without the stage: ``exact_match``, ``exact_match_low``, ``exact_match_high``,
            ``exact_match_total``, and ``exact_match/<task>`` likewise.
        metric: Name of the share, as ``exact_match``.

    Returns:
        Figures by task, ``overall`` first; empty where the metric is missing.

    Example:
        >>> read_figures({"exact_match": 0.5, "exact_match/sum": 0.25, "loss": 3.0}, "exact_match")["sum"].mean
        0.25
    """
    bounds = ("_low", "_high", "_total")
    figures = {}
    for name, mean in metrics.items():
        # A bound has a figure without its ending beside it; a task may well be called "count_total".
        is_bound = any(name.endswith(bound) and name.removesuffix(bound) in metrics for bound in bounds)
        if is_bound or not (name == metric or name.startswith(f"{metric}/")):
            continue
        total = metrics.get(f"{name}_total")
        task = OVERALL if name == metric else name.removeprefix(f"{metric}/")
        figures[task] = Figure(
            mean=mean,
            low=metrics.get(f"{name}_low"),
            high=metrics.get(f"{name}_high"),
            total=None if total is None else round(total),
        )
    first = {OVERALL: figures.pop(OVERALL)} if OVERALL in figures else {}
    return {**first, **figures}


def compare(before: Mapping[str, Figure], after: Mapping[str, Figure]) -> list[Comparison]:
    """Pairs figures by task, in the order of ``after``, tasks that were only measured before last."""
    names = [*after, *(name for name in before if name not in after)]
    return [Comparison(name, before.get(name), after.get(name)) for name in names]


def comparison_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """Sets comparisons as a table of percentages; gains are coloured where the intervals are apart.

    It fits 80 characters with task names of up to 17.
    """
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.add_column("task", overflow="fold")
    for heading in ("before", "after", "gain"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("interval", no_wrap=True)
    for comparison in comparisons:
        gain, apart = comparison.gain_points, comparison.intervals_apart
        colour = "" if not apart or gain is None else "bold green" if gain > 0 else "bold red"
        table.add_row(
            Text(comparison.name, style="bold" if comparison.name == OVERALL else ""),
            str(comparison.before or "-"),
            str(comparison.after or "-"),
            Text("-" if gain is None else f"{gain:+.1f}", style=colour),
            "-" if apart is None else "apart" if apart else "overlap",
        )
    return table
