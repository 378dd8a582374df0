"""Keeps questions that are neither too easy nor too hard for the model that tried them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.synthesis.curation import CountingOperator, check_names
from lit_vlm.synthesis.pass_rates import check_right_from, pass_rates


@dataclass(frozen=True)
class PassRateFilter(CountingOperator):
    """Keeps samples by the share of their candidates that are right.

    Source:
        Hong et al., GLM-4.1V-Thinking (2025), section 5.3: difficulty from pass@k of the model or of earlier ones,
        where always right and always wrong questions teach nothing (from-paper-text); the bounds are the user's.
    """

    least: float = 0.0
    """Least share that is kept, in [0, 1]; any number above 0 leaves out what is never right."""
    most: float = 1.0
    """Largest share that is kept, in [0, 1]; any number below 1 leaves out what is always right."""
    score: tuple[str, ...] = ("correct",)
    """Names of the grades that are added up to a candidate's score."""
    right_from: float = 1.0
    """Score from which a candidate is right."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most <= 1:
            raise UserError(f"least is {self.least} and most is {self.most}; give shares from 0 to 1, least first")
        check_names("score", self.score)
        check_right_from(self.right_from)

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns the samples whose share lies within the bounds, both included.

        Raises:
            UserError: A sample has no candidates, or one of them lacks a grade.
        """
        kept = []
        for sample, rate in zip(samples, pass_rates(samples, self.score, self.right_from), strict=True):
            if rate < self.least:
                left_out[f"samples with a pass rate below {self.least:g}"] += 1
            elif rate > self.most:
                left_out[f"samples with a pass rate above {self.most:g}"] += 1
            else:
                kept.append(sample)
        return kept
