"""Chooses from graded traces of one question a good one and a bad one, or none where they do not differ enough."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_vlm.interfaces.errors import UserError


@dataclass(frozen=True)
class TraceFilter:
    """Takes the first of the best-answered traces with a good box, and the first of the worst with a bad box.

    Source:
        Zhang et al., VisRL: Intention-Driven Visual Perception via Reinforced Reasoning (2025), ``data_gen/filter.py``
        (confirmed-in-code).
    """

    lowest_answer: float = 0.2
    """The worst answer's score must be at most this."""
    highest_answer: float = 0.8
    """The best answer's score must be at least this."""
    bad_box: float = 0.2
    """Box score that the bad trace may have at most."""
    good_box: float = 0.8
    """Box score that the good trace must have at least."""

    def __post_init__(self) -> None:
        for name in ("lowest_answer", "highest_answer", "bad_box", "good_box"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"filter.{name} is {value}; scores lie between 0 and 1")
        if self.lowest_answer > self.highest_answer:
            raise UserError(
                f"filter.lowest_answer is {self.lowest_answer}, above highest_answer, {self.highest_answer}; "
                "exchange them"
            )

    def __call__(self, scores: Sequence[tuple[float, float]]) -> tuple[int, int] | None:
        """Chooses the good and the bad trace.

        Args:
            scores: Of each trace the scores of its answer and of its box, in [0, 1].

        Returns:
            Their indices; None where the answers are too alike, none is good or bad enough, or no box is.

        Example:
            >>> TraceFilter()([(0.9, 0.7), (0.9, 0.9), (0.1, 0.3), (0.1, 0.1)])
            (1, 3)
        """
        if not scores:
            return None
        answers = [answer for answer, _ in scores]
        worst, best = min(answers), max(answers)
        if worst > self.lowest_answer or best < self.highest_answer or worst == best:
            return None
        good = [place for place, (answer, box) in enumerate(scores) if answer == best and box >= self.good_box]
        bad = [place for place, (answer, box) in enumerate(scores) if answer == worst and box <= self.bad_box]
        return (good[0], bad[0]) if good and bad else None
