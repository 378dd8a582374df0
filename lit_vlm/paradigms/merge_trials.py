"""What a search over merges has tried, how each did, and how that is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.coefficient_search import WHOLE, Candidate, CoefficientSearch, Observation, best_of


@dataclass(frozen=True)
class Factors:
    """What a vector is multiplied by: one number, or one for each group of weights."""

    values: tuple[float, ...]
    groups: tuple[str, ...] = ()
    """Filters; none where the one number holds for all weights."""

    @classmethod
    def of(cls, search: CoefficientSearch, candidate: Candidate) -> Factors:
        """Reads a candidate of a search; zeros for all groups are one zero."""
        return cls(candidate, search.groups) if any(candidate) else cls((0.0,))

    @property
    def rules(self) -> tuple[CoefficientRule, ...]:
        """The same as rules for coefficients."""
        filters: tuple[str | None, ...] = self.groups or (None,)
        return tuple(CoefficientRule(filter, value) for filter, value in zip(filters, self.values, strict=True))

    @property
    def name(self) -> str:
        """Names them in logs: ``alpha_0.5``, or ``groups``."""
        return "groups" if self.groups else f"{WHOLE}_{self.values[0]:g}"

    def __str__(self) -> str:
        """Writes the number, or each group with its own."""
        if not self.groups:
            return f"{self.values[0]:g}"
        return ", ".join(f"{group} {value:g}" for group, value in zip(self.groups, self.values, strict=True))


@dataclass(frozen=True)
class MeasuredFigure:
    """A metric of one model."""

    mean: float
    low: float | None = None
    """Lower bound of its 95 % interval, where known."""
    high: float | None = None
    """Upper bound, where known."""
    total: int | None = None
    """Rows it was measured on, where known."""

    @classmethod
    def read(cls, metrics: Mapping[str, Any], metric: str, option: str) -> MeasuredFigure:
        """Finds a metric with its bounds.

        Args:
            metrics: Values by name, such as ``exact_match`` and ``exact_match_low``.
            metric: Its name.
            option: What the user knows the setting as, for the message.

        Raises:
            UserError: It is not there.
        """
        if metric not in metrics:
            known = sorted(name for name in metrics if not name.endswith(("_low", "_high", "_total")))
            raise UserError(f"{option} is {metric!r}, which is not logged; choose one of {known}")
        low, high, total = (metrics.get(f"{metric}{ending}") for ending in ("_low", "_high", "_total"))
        return cls(
            float(metrics[metric]),
            None if low is None else float(low),
            None if high is None else float(high),
            None if total is None else round(float(total)),
        )

    def __str__(self) -> str:
        """Writes a share with an interval in percent, ``50.0 [46.5, 53.5]``, anything else as it is."""
        if self.low is None or self.high is None:
            return f"{self.mean:.4f}"
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def to_json(self) -> dict[str, Any]:
        """A flat record, without what strict JSON lacks."""
        return {name: value if value is None or math.isfinite(value) else None for name, value in asdict(self).items()}


class MergeTrials:
    """Keeps the history of a search.

    Args:
        search: Says what is tried next.
        metric: What validation is to log, without ``validation/``.
        mode: Whether more of it is better.
    """

    def __init__(self, search: CoefficientSearch, metric: str, mode: Literal["max", "min"]) -> None:
        self.search = search
        self.metric = metric
        self.mode = mode
        self.unchanged: MeasuredFigure | None = None
        """Of the target as it is, where all of validation has been run on it."""
        self.tried: list[tuple[Candidate, MeasuredFigure]] = []

    @property
    def next_candidate(self) -> Candidate | None:
        """What is to be tried next; None where the search is over."""
        return self.search.next_candidate([self._observation(*trial) for trial in self.tried])

    @property
    def best(self) -> Candidate | None:
        """The best so far, perhaps the target as it is; None where nothing has been tried."""
        if not self.tried:
            return None
        everything = list(self.tried)
        if self.unchanged is not None:
            everything.insert(0, (self.zeros, self.unchanged))
        return best_of([self._observation(*trial) for trial in everything]).candidate

    @property
    def zeros(self) -> Candidate:
        """The candidate that changes nothing."""
        return (0.0,) * max(1, len(self.search.groups))

    def add(self, candidate: Candidate, figure: MeasuredFigure) -> None:
        """Takes down how a candidate did."""
        self.tried.append((candidate, figure))

    def lines(self) -> list[str]:
        """Sets the history as a table."""
        trials = list(self.tried)
        if self.unchanged is not None and self.zeros not in [candidate for candidate, _ in trials]:
            trials.insert(0, (self.zeros, self.unchanged))
        best = self.best
        rows = [(str(Factors.of(self.search, candidate)), figure, candidate == best) for candidate, figure in trials]
        return figure_table("coefficients" if self.search.groups else WHOLE, self.metric, "validation", rows)

    def to_json(self) -> dict[str, Any]:
        """A record of the whole search."""
        best = self.best
        return {
            "metric": self.metric,
            "mode": self.mode,
            "groups": list(self.search.groups),
            "unchanged": None if self.unchanged is None else self.unchanged.to_json(),
            "trials": [{"candidate": list(candidate), **figure.to_json()} for candidate, figure in self.tried],
            "best": None if best is None else list(best),
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "unchanged": None if self.unchanged is None else asdict(self.unchanged),
            "tried": [(list(candidate), asdict(figure)) for candidate, figure in self.tried],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues the search of an earlier run.

        Raises:
            UserError: That run searched otherwise.
        """
        self.unchanged = None if state["unchanged"] is None else MeasuredFigure(**state["unchanged"])
        self.tried = [(tuple(candidate), MeasuredFigure(**figure)) for candidate, figure in state["tried"]]
        _ = self.next_candidate

    def _observation(self, candidate: Candidate, figure: MeasuredFigure) -> Observation:
        return Observation(candidate, figure.mean if self.mode == "max" else -figure.mean)


def figure_table(heading: str, metric: str, where: str, rows: Sequence[tuple[str, MeasuredFigure, bool]]) -> list[str]:
    """Sets one metric of several models as a plain table, with a title and a mark at those chosen.

    Args:
        heading: Of the first column.
        metric: Its name.
        where: What it was measured on.
        rows: Name, figure, and whether it is the one chosen.
    """
    has_intervals = any(figure.low is not None for _, figure, _ in rows)
    unit = ", in % with 95 % intervals" if has_intervals else ""
    totals = {figure.total for _, figure, _ in rows if figure.total is not None}
    samples = f" on {totals.pop()} samples" if len(totals) == 1 else ""
    width = max(len(heading), *(len(name) for name, _, _ in rows))
    reach = max(len(metric), *(len(str(figure)) for _, figure, _ in rows))
    return [
        f"{where} {metric.replace('_', ' ')}{samples}{unit}",
        f"  {heading:<{width}}  {metric:>{reach}}",
        *(f"  {name:<{width}}  {figure!s:>{reach}}{'  <- chosen' if chosen else ''}" for name, figure, chosen in rows),
    ]
