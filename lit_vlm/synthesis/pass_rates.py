"""How often a sample's candidates are right: what tells its difficulty to the model that wrote them."""

from __future__ import annotations

from collections.abc import Sequence

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import INJECTED_ERROR, Sample
from lit_vlm.synthesis.completions import total_score
from lit_vlm.synthesis.curation import refuse_if_any


def pass_rates(samples: Sequence[Sample], score: Sequence[str], right_from: float) -> list[float]:
    """Computes each sample's share of right candidates; repeats count, injected errors do not.

    Args:
        samples: With graded candidates.
        score: Grades that are added up to a candidate's score.
        right_from: Score from which a candidate is right.

    Returns:
        Shares in [0, 1], in the order of the samples.

    Raises:
        UserError: A sample has no candidates, or one of them lacks a grade.
    """
    rates: list[float] = []
    without: list[Sample] = []
    for sample in samples:
        scores = [total_score(candidate, score) for candidate in sample.candidates if candidate.model != INJECTED_ERROR]
        graded = [value for value in scores if value is not None]
        if not scores or len(graded) < len(scores):
            without.append(sample)
        else:
            rates.append(sum(value >= right_from for value in graded) / len(graded))
    names = " + ".join(score)
    refuse_if_any(
        without,
        f"has no candidates, or one without a grade {names!r}",
        "give completions that a verifier graded, or leave the others out first with CandidateFilter",
    )
    return rates


def check_right_from(right_from: float) -> None:
    """Refuses what is no score.

    Raises:
        UserError: It is none.
    """
    if right_from != right_from:
        raise UserError("right_from is not a number; give the score from which a candidate is right")
