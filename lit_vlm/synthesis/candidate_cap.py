"""Keeps a few completions of each question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.synthesis.completions import completion_key, total_score
from lit_vlm.synthesis.curation import CountingOperator, check_names, check_one_of, refuse_if_any, with_candidates

By = Literal["first", "shortest", "best", "random"]
Place = tuple[int, Candidate]


@dataclass(frozen=True)
class CandidateCap(CountingOperator):
    """Keeps at most so many candidates of each sample, repeats aside; those that tie go in the order they stand in.

    What is kept stays in its order. With ``most: 1`` and ``by: best`` it is best-of-n; with ``by: shortest`` after a
    ``CandidateFilter`` on ``correct``, the shortest right one.

    Source:
        Deng et al., OpenVLThinker (2025), section 4.1: the shortest right one of 4 (from-paper-text). Ties, the cap and
        the removal of repeats are ours.
    """

    most: int
    """Most candidates of a sample, 1 or more."""
    by: By = "first"
    """Which ones: the first, the shortest in characters (white space evened out), those of the highest score, or a draw
    by a hash of ``seed``, id and text."""
    score: tuple[str, ...] = ("correct",)
    """Names of the grades that are added up to a candidate's score, for ``best``."""
    each: str | None = None
    """Grade by whose value the cap applies, e.g. ``correct`` for so many right and so many wrong ones; None caps all
    candidates of a sample together."""
    distinct: bool = True
    """Whether candidates go that differ from an earlier one in white space at most."""
    seed: int = 0
    """Names the draw, for ``random``."""

    def __post_init__(self) -> None:
        if self.most < 1:
            raise UserError(f"most is {self.most}; give at least 1")
        check_one_of("by", self.by, get_args(By))
        check_names("score", self.score)

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns all samples, with fewer candidates.

        Raises:
            UserError: A candidate lacks a grade that the choice depends on.
        """
        needed = [*(self.score if self.by == "best" else ()), *([] if self.each is None else [self.each])]
        for name in needed:
            refuse_if_any(
                [sample for sample in samples if any(total_score(one, [name]) is None for one in sample.candidates)],
                f"has a candidate without a grade {name!r}",
                "name a grade that all have, or leave the others out first with CandidateFilter",
            )
        return [self._capped(sample, left_out) for sample in samples]

    def _capped(self, sample: Sample, left_out: Counter[str]) -> Sample:
        places = list(enumerate(sample.candidates))
        distinct = self._distinct(places) if self.distinct else places
        ranked = sorted(distinct, key=lambda entry: self._rank(sample.id, entry[1]))
        counts: Counter[float | None] = Counter()
        kept = []
        for place, candidate in ranked:
            kind = None if self.each is None else total_score(candidate, [self.each])
            if counts[kind] < self.most:
                counts[kind] += 1
                kept.append(place)
        left_out["candidates that repeat an earlier one"] += len(places) - len(distinct)
        left_out[f"candidates beyond {self.most:,} of a sample"] += len(distinct) - len(kept)
        return with_candidates(sample, [sample.candidates[place] for place in sorted(kept)])

    def _distinct(self, places: Sequence[Place]) -> list[Place]:
        """Leaves out repeats; the same words graded differently are kept apart where the cap goes by the grade."""
        first: dict[object, Place] = {}
        for place, candidate in places:
            kind = None if self.each is None else total_score(candidate, [self.each])
            first.setdefault((completion_key(candidate.messages), kind), (place, candidate))
        return list(first.values())

    def _rank(self, sample_id: str, candidate: Candidate) -> float:
        # ``sorted`` keeps the order of those that tie.
        if self.by == "shortest":
            return len(" ".join(candidate.text.split()))
        if self.by == "best":
            return -(total_score(candidate, self.score) or 0.0)
        return stream_seed(self.seed, "cap", sample_id, candidate.text) if self.by == "random" else 0
