"""Groups of graded completions of one prompt, beside one to imitate."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import INJECTED_ERROR, Candidate, Preference, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import (
    distinct_candidates,
    is_empty,
    origin_of,
    reference_completion,
    total_score,
)
from lit_vlm.synthesis.pair_transform import preference_between


@dataclass(frozen=True)
class CandidateGroups(SampleTransform):
    """Keeps the candidates that an alignment of a whole group can use: graded by ``correct``, not empty, each once.

    Source:
        Wang et al., Making Large Language Models Better Reasoners with Alignment (2023): six sampled chains, without
        repeats (reconstructed).
    """

    limit: int = 6
    """Most candidates of a group, the first ones given; 1 or more."""
    injected: bool = False
    """Whether candidates whose ``model`` is ``injected_error`` count, which no model sampled."""
    ties_by: str | None = None
    """Grade, 0 or more, that orders candidates which are equally right, for objectives that rank them: their score for
    training is ``correct + 0.5 * grade / (1 + grade)``, so that no wrong one comes up to a right one."""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UserError(f"limit is {self.limit}; give at least 1")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns the sample with the candidates that are kept.

        Raises:
            BadSampleError: There is no chain to imitate, no graded candidate, or one that lacks the grade ``ties_by``.
        """
        reference = reference_completion(sample)
        if reference is None:
            raise BadSampleError(origin_of(sample), "has no chain to imitate; let its last turn be the assistant's")
        kept = self._kept(sample)
        if not kept:
            raise BadSampleError(origin_of(sample), "has no candidate with a score 'correct'; give 1 or 0")
        if self.ties_by is not None:
            kept = tuple(_ranked(sample, candidate, self.ties_by) for candidate in kept)
        return (replace(sample, messages=(*sample.prompt, *reference), candidates=kept, preferences=()),)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Adds every pair of a better and a worse candidate, so that pair accuracy is assessment accuracy."""
        kept = self._kept(sample)
        return replace(sample, candidates=kept, preferences=tuple(_ordered_pairs(kept)))

    def _kept(self, sample: Sample) -> tuple[Candidate, ...]:
        graded = [
            candidate
            for candidate in sample.candidates
            if not is_empty(candidate.messages) and total_score(candidate, ["correct"]) is not None
            if self.injected or candidate.model != INJECTED_ERROR
        ]
        return tuple(distinct_candidates(graded)[: self.limit])


def _ranked(sample: Sample, candidate: Candidate, ties_by: str) -> Candidate:
    grade = total_score(candidate, [ties_by])
    if grade is None or grade < 0:
        raise BadSampleError(
            origin_of(sample), f"has a candidate without a grade {ties_by!r} of 0 or more, by which they are ranked"
        )
    score = candidate.scores["correct"] + 0.5 * grade / (1 + grade)
    return replace(candidate, scores={**candidate.scores, "correct": score})


def _ordered_pairs(candidates: tuple[Candidate, ...]) -> Iterator[Preference]:
    for better in candidates:
        for worse in candidates:
            if better.scores["correct"] > worse.scores["correct"]:
                pair = preference_between(better.messages, worse.messages)
                if pair is not None:
                    yield pair
