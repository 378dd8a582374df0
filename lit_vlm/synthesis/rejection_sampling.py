"""Imitates the best of several completions."""

from dataclasses import dataclass
from typing import Literal

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import (
    check_candidates,
    completion_key,
    first_of_each,
    imitation_sample,
    spoken_candidates,
    total_score,
)


@dataclass(frozen=True)
class RejectionSampling(SampleTransform):
    """Keeps completions by their score, to imitate them.

    Empty completions and those that lack a grade are left out. A prompt of which none is kept gives no training sample.

    Source:
        Deng et al., OpenVLThinker (2025), section 4.1: the shortest right one of 4 (from-paper-text). Ties, the cap and
        the removal of repeats are ours, as is that white space is evened out to compare texts, not in what is imitated.
    """

    score: tuple[str, ...] = ("correct",)
    """Names of the grades that are added up to a completion's score."""
    mode: Literal["threshold", "best"] = "threshold"
    """``threshold``: keeps all scores from ``threshold`` on; ``best``: keeps the highest of them, the first of those
    that tie."""
    threshold: float = 1.0
    """Least score that is kept."""
    per_prompt: int | None = 1
    """Most completions kept of one prompt; None keeps all."""
    prefer_short: bool = True
    """Whether the shortest ones are kept, in characters, where more than ``per_prompt`` are good enough; the first ones
    otherwise."""

    def __post_init__(self) -> None:
        if not self.score or len(set(self.score)) != len(self.score):
            raise UserError(f"score is {list(self.score)}; name one or more grades, each once")
        if self.threshold != self.threshold:
            raise UserError("threshold is not a number; give the least score to keep")
        if self.per_prompt is not None and self.per_prompt < 1:
            raise UserError(f"per_prompt is {self.per_prompt}; give at least 1, or null to keep all")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns one sample for each completion that is kept, in the order in which they are given.

        Raises:
            BadSampleError: The sample has no candidates.
        """
        check_candidates(sample)
        scored = [
            (index, candidate, total_score(candidate, self.score)) for index, candidate in spoken_candidates(sample)
        ]
        good = [
            (index, candidate, score)
            for index, candidate, score in scored
            if score is not None and score >= self.threshold
        ]
        if self.mode == "best":
            good = sorted(good, key=lambda entry: -entry[2])[:1]
        kept = first_of_each(good, key=lambda entry: completion_key(entry[1].messages))
        if self.prefer_short:
            kept.sort(key=lambda entry: len(" ".join(entry[1].text.split())))
        kept = sorted(kept[: self.per_prompt], key=lambda entry: entry[0])
        return tuple(imitation_sample(sample, index, candidate.messages) for index, candidate, _ in kept)
