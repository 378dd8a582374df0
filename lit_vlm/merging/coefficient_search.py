"""Which coefficients a search over merges tries next, given how the ones before did."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lit_vlm.interfaces.errors import UserError

WHOLE = "alpha"
"""Names the one coefficient of a search that does not tell weights apart."""
GOLDEN = (math.sqrt(5) - 1) / 2

Candidate = tuple[float, ...]
"""A coefficient for each group of the search; a single one where it has no groups."""
Trials = Generator[Candidate, float, None]
"""Yields candidates, and is sent the score of each."""


@dataclass(frozen=True)
class Observation:
    """How a candidate did."""

    candidate: Candidate
    score: float
    """Higher is better; what is no number counts as the worst."""

    @property
    def rank(self) -> tuple[float, float]:
        """Orders observations: by score, equal ones by how little they change."""
        score = -math.inf if math.isnan(self.score) else self.score
        return score, -sum(map(abs, self.candidate))


def best_of(observations: Sequence[Observation]) -> Observation:
    """Returns the observation with the highest score; of equals that with the smallest coefficients, then the first.

    Example:
        >>> best_of([Observation((1.0,), 0.5), Observation((0.5,), 0.5), Observation((0.0,), 0.2)]).candidate
        (0.5,)
    """
    return max(observations, key=lambda observation: observation.rank)


class CoefficientSearch(ABC):
    """Chooses coefficients by trying them; without randomness, so that a history tells where a search stands."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Filters of the weights that have a coefficient of their own; empty where one holds for all."""
        return ()

    @property
    @abstractmethod
    def most_trials(self) -> int:
        """Candidates that are tried at most."""

    @abstractmethod
    def trials(self) -> Trials:
        """Yields one candidate after another; what it is sent is the candidate's score, NaN at worst."""

    def next_candidate(self, history: Sequence[Observation]) -> Candidate | None:
        """Says what to try after what was tried.

        Args:
            history: All observations so far, in order.

        Returns:
            The next candidate; None where the search is over.

        Raises:
            UserError: This search would have tried something else.
        """
        trials = self.trials()
        candidate = next(trials, None)
        for observation in history:
            if candidate is None or candidate != observation.candidate:
                raise UserError(
                    f"the search that is resumed has tried {list(observation.candidate)} where this one would "
                    f"{'be over' if candidate is None else f'try {list(candidate)}'}; resume with the same model.search"
                )
            try:
                candidate = trials.send(observation.rank[0])
            except StopIteration:
                candidate = None
        return candidate


@dataclass(frozen=True)
class GridSearch(CoefficientSearch):
    """Tries a list of coefficients."""

    values: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """In the order in which they are tried."""

    def __post_init__(self) -> None:
        _check_values("GridSearch", self.values)

    @property
    def most_trials(self) -> int:
        """As many as there are values."""
        return len(self.values)

    def trials(self) -> Trials:
        """Yields the values."""
        for value in self.values:
            yield (value,)


@dataclass(frozen=True)
class GoldenSection(CoefficientSearch):
    """Narrows an interval around the best coefficient by the golden section, one evaluation for each narrowing.

    It finds the best where the metric first rises and then falls over the interval. Where two coefficients do equally
    well, the search goes on around the lower. The ends themselves are never tried.

    Source:
        Kiefer, Sequential Minimax Search for a Maximum, Proceedings of the American Mathematical Society 4 (1953).
    """

    low: float = 0.0
    """Lower end."""
    high: float = 1.5
    """Upper end."""
    evaluations: int = 8
    """Most candidates that are tried, at least 2."""
    tolerance: float = 0.01
    """The search ends when the interval is not wider than this."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"GoldenSection has low {self.low} and high {self.high}; low must be finite and below high")
        if self.evaluations < 2:
            raise UserError(f"GoldenSection.evaluations is {self.evaluations}; give at least 2")
        if not self.tolerance >= 0:
            raise UserError(f"GoldenSection.tolerance is {self.tolerance}; give 0 or more")

    @property
    def most_trials(self) -> int:
        """The evaluations, or fewer where the tolerance is reached before."""
        width = self.high - self.low
        count = 2
        # After n trials the interval has been narrowed n - 1 times, of which the last asks for no trial.
        while count < self.evaluations and width * GOLDEN ** (count - 1) > self.tolerance:
            count += 1
        return count

    def trials(self) -> Trials:
        """Yields the inner points of the interval as it narrows."""
        low, high = self.low, self.high
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left_score = yield (left,)
        right_score = yield (right,)
        for _ in range(self.most_trials - 2):
            if left_score >= right_score:
                high, right, right_score = right, left, left_score
                left = high - GOLDEN * (high - low)
                left_score = yield (left,)
            else:
                low, left, left_score = left, right, right_score
                right = low + GOLDEN * (high - low)
                right_score = yield (right,)


@dataclass(frozen=True)
class LayerGroupSearch(CoefficientSearch):
    """Gives groups of weights coefficients of their own, one group at a time while the others stand.

    Each group in turn is given all values and keeps the best; ties keep what it had. Nothing is tried twice, and a
    round that changes nothing is the last.
    """

    filters: tuple[str, ...] = ("attn", "mlp")
    """A group each: ``attn``, ``mlp``, ``norm``, ``layers:12-27``, or a piece of a name on disk. A weight belongs to
    the first that matches; one that none matches is not changed."""
    values: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Coefficients that each group is given."""
    start: float = 1.0
    """Coefficient of all groups at first."""
    rounds: int = 1
    """How often all groups have their turn, at most."""

    def __post_init__(self) -> None:
        _check_values("LayerGroupSearch", self.values)
        if not self.filters:
            raise UserError("LayerGroupSearch.filters is empty; name at least one group, such as attn or layers:12-27")
        if len(set(self.filters)) < len(self.filters):
            raise UserError(f"LayerGroupSearch.filters is {list(self.filters)}; name each group once")
        if not math.isfinite(self.start):
            raise UserError(f"LayerGroupSearch.start is {self.start}; give a finite number")
        if self.rounds < 1:
            raise UserError(f"LayerGroupSearch.rounds is {self.rounds}; give at least 1")

    @property
    def groups(self) -> tuple[str, ...]:
        """The filters."""
        return self.filters

    @property
    def most_trials(self) -> int:
        """The first candidate, and for each group and round the values that it does not have already."""
        others = len(self.values) - (self.start in self.values)
        first = len(self.filters) * others
        # From the second round on, a group has one of the values, or has kept its start.
        return 1 + first + (self.rounds - 1) * len(self.filters) * max(others, len(self.values) - 1)

    def trials(self) -> Trials:
        """Yields candidates that differ from the best so far in one group."""
        best: Candidate = (self.start,) * len(self.filters)
        seen = {best: (yield best)}
        for _ in range(self.rounds):
            before = best
            for group in range(len(self.filters)):
                held = best
                for value in self.values:
                    candidate = (*held[:group], value, *held[group + 1 :])
                    if candidate not in seen:
                        seen[candidate] = yield candidate
                    if seen[candidate] > seen[best]:
                        best = candidate
            if best == before:
                return


def _check_values(search: str, values: Sequence[float]) -> None:
    if not values:
        raise UserError(f"{search}.values is empty; give the coefficients to try")
    if not all(map(math.isfinite, values)):
        raise UserError(f"{search}.values is {list(values)}; all must be finite")
    if any(first == second for first, second in pairwise(sorted(values))):
        raise UserError(f"{search}.values is {list(values)}; give each coefficient once")
