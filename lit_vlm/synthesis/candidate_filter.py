"""Keeps the completions whose score lies between two bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.synthesis.completions import is_empty, total_score
from lit_vlm.synthesis.curation import (
    CountingOperator,
    Unknown,
    check_names,
    check_one_of,
    check_range,
    filter_candidates,
    refuse_if_any,
)


@dataclass(frozen=True)
class CandidateFilter(CountingOperator):
    """Keeps candidates by their score; a sample of which none is left goes too.

    Scores of a ledger are ``correct``, ``formatted``, ``finished``, ``reward`` and ``reward/<name>``, ``length`` in
    tokens, ``log_prob`` and ``entropy``; others come with the data.
    """

    score: tuple[str, ...] = ("correct",)
    """Names of the grades that are added up to a candidate's score."""
    least: float | None = 1.0
    """Least score that is kept; None for no bound."""
    most: float | None = None
    """Largest score that is kept; None for no bound."""
    without_score: Unknown = "error"
    """What a candidate does that lacks a grade: stops the run, is left out, or is kept."""
    drop_empty: bool = True
    """Whether candidates that say nothing are left out."""

    def __post_init__(self) -> None:
        check_names("score", self.score)
        check_range(self.least, self.most)
        check_one_of("without_score", self.without_score, get_args(Unknown))

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns the samples with the candidates within the bounds, both included.

        Raises:
            UserError: A candidate lacks a grade, and ``without_score`` is ``error``.
        """
        if self.without_score == "error":
            refuse_if_any(
                [sample for sample in samples if any(self._lacks_score(one) for one in sample.candidates)],
                f"has a candidate without a grade {' + '.join(self.score)!r}",
                "name a grade that all have, or say with without_score what such candidates do",
            )
        return filter_candidates(samples, self._reason, left_out)

    def _lacks_score(self, candidate: Candidate) -> bool:
        return not (self.drop_empty and is_empty(candidate.messages)) and total_score(candidate, self.score) is None

    def _reason(self, candidate: Candidate) -> str | None:
        if self.drop_empty and is_empty(candidate.messages):
            return "candidates that say nothing"
        name = " + ".join(self.score)
        score = total_score(candidate, self.score)
        if score is None:
            return None if self.without_score == "keep" else f"candidates without {name}"
        if self.least is not None and score < self.least:
            return f"candidates with {name} below {self.least:g}"
        if self.most is not None and score > self.most:
            return f"candidates with {name} above {self.most:g}"
        return None
