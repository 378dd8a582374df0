"""Keeps the completions that a judge thinks well of, or those that it judged truly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from lit_vlm.interfaces.critiques import CRITIQUE_VERDICTS, CritiqueVerdict
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.synthesis.completions import total_score
from lit_vlm.synthesis.curation import (
    CountingOperator,
    Unknown,
    check_one_of,
    check_range,
    filter_candidates,
    refuse_if_any,
)


@dataclass(frozen=True)
class JudgeFilter(CountingOperator):
    """Keeps candidates by the critique that is attached to them; a sample of which none is left goes too."""

    verdict: CritiqueVerdict | None = "right"
    """The judge's verdict that is kept; None does not ask for it."""
    least_score: float | None = None
    """Least score that the judge gave; None does not ask for it."""
    truthful: bool = False
    """Whether the judge's verdict must be what the verifier says (the grade ``correct``): so critiques are kept that
    are worth learning from."""
    unjudged: Unknown = "drop"
    """What a candidate does of which the judge does not say what is asked: stops the run, is left out, or is kept."""

    def __post_init__(self) -> None:
        check_one_of("verdict", self.verdict, (*CRITIQUE_VERDICTS, None))
        check_one_of("unjudged", self.unjudged, get_args(Unknown))
        check_range(self.least_score, None, ("least_score", "most_score"))
        if self.verdict is None and self.least_score is None and not self.truthful:
            raise UserError("nothing is asked of the judge; give a verdict or a least_score, or set truthful")

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns the samples with the candidates that pass.

        Raises:
            UserError: A candidate is not judged, and ``unjudged`` is ``error``; or none of all is.
        """
        candidates = [candidate for sample in samples for candidate in sample.candidates]
        if candidates and all(candidate.critique is None for candidate in candidates):
            refuse_if_any(
                [sample for sample in samples if sample.candidates],
                "has no judged candidate",
                "name the judge's ledgers in data.attach.critiques",
            )
        if self.unjudged == "error":
            refuse_if_any(
                [sample for sample in samples if any(self._missing(candidate) for candidate in sample.candidates)],
                "has a candidate that is not judged",
                "say with unjudged what such candidates do",
            )
        return filter_candidates(samples, self._reason, left_out)

    def _missing(self, candidate: Candidate) -> str | None:
        """Says what the judge, or the verifier, does not tell."""
        critique = candidate.critique
        if critique is None:
            return "candidates without a critique"
        if critique.verdict is None and (self.verdict is not None or self.truthful):
            return "candidates whose critique has no verdict"
        if critique.score is None and self.least_score is not None:
            return "candidates whose critique has no score"
        if self.truthful and total_score(candidate, ["correct"]) not in (0, 1):
            return "candidates that no verifier graded"
        return None

    def _reason(self, candidate: Candidate) -> str | None:
        missing = self._missing(candidate)
        if missing is not None or candidate.critique is None:
            return None if self.unjudged == "keep" else missing
        critique = candidate.critique
        if self.verdict is not None and critique.verdict != self.verdict:
            return f"candidates judged {critique.verdict}"
        if self.least_score is not None and (critique.score or 0.0) < self.least_score:
            return f"candidates that the judge scored below {self.least_score:g}"
        if self.truthful and (critique.verdict == "right") != (candidate.scores["correct"] == 1):
            return "candidates misjudged"
        return None
