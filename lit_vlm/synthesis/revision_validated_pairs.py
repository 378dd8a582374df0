"""Pairs of critiques of which one was shown to help more: by the revisions that follow them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, Preference, Sample
from lit_vlm.parsing.critique_units import REVISION
from lit_vlm.synthesis.completions import DECIMALS, distinct_candidates, is_empty, origin_of
from lit_vlm.synthesis.critique_unit_prompts import CritiqueUnitPrompts
from lit_vlm.synthesis.pair_transform import PairTransform, preference_between


@dataclass(frozen=True)
class RevisionValidatedPairs(PairTransform):
    """Prefers the critique after which several agents revise better.

    Candidates are critiques of one solution, with the scores ``revision/0``, ``revision/1``, … of the revisions that
    the same agents made after each. The prompt is written anew, without what only critics may know.

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024), multi-agent
        revision validation (MARV). ``agents`` and ``delta`` were not read in the paper (reconstructed); which pairs
        stay under the cap is ours.
    """

    prompt: CritiqueUnitPrompts = CritiqueUnitPrompts()
    """What the model that learns is asked."""
    agents: int = 3
    """Revisions after each critique; one with fewer is left out."""
    delta: float = 0.5
    """Least mean difference of the scores, in their unit, above 0."""
    pairs_per_sample: int | None = 1
    """Most pairs of one solution, those that differ most; they share the weight of one. None keeps all."""

    def __post_init__(self) -> None:
        if self.agents < 1:
            raise UserError(f"agents is {self.agents}; give at least 1")
        if not 0 < self.delta < math.inf:
            raise UserError(f"delta is {self.delta}; give more than 0")
        if self.pairs_per_sample is not None and self.pairs_per_sample < 1:
            raise UserError(f"pairs_per_sample is {self.pairs_per_sample}; give at least 1, or null to keep all")

    def pairs(self, sample: Sample) -> tuple[Preference, ...]:
        """Returns the pairs that hold, those that differ most first."""
        spoken = [candidate for candidate in sample.candidates if not is_empty(candidate.messages)]
        scored = [(candidate, self._scores(candidate)) for candidate in distinct_candidates(spoken)]
        graded = [(candidate, scores) for candidate, scores in scored if scores is not None]
        held: list[tuple[float, Preference]] = []
        for (one, scores), (other, others) in itertools.combinations(graded, 2):
            preference = validated_preference(scores, others, self.delta)
            better, worse = (one, other) if (preference or 0.0) > 0 else (other, one)
            pair = preference_between(better.messages, worse.messages)
            if preference is not None and pair is not None:
                held.append((abs(preference), pair))
        held.sort(key=lambda entry: -entry[0])
        return tuple(pair for _, pair in held[: self.pairs_per_sample])

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns the prompt with its pairs, or nothing where no pair holds.

        Raises:
            BadSampleError: There are no critiques, they are about nothing, or none has scores of revisions.
        """
        made = super().__call__(sample)
        if not made and not any(self._scores(candidate) is not None for candidate in sample.candidates):
            raise BadSampleError(
                origin_of(sample),
                f"has no critique with the scores of {self.agents} revisions; name their ledgers in "
                "data.attach.revisions, or set agents to how many there are",
            )
        return tuple(self.prompt.anew(one) for one in made)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Adds the pairs, and asks as in training."""
        reference = sample.messages[len(sample.prompt) :]
        asked = self.prompt.anew(super().for_evaluation(sample))
        return replace(asked, messages=(*asked.messages, *reference))

    def _scores(self, candidate: Candidate) -> list[float] | None:
        """Lists the scores by agent; None where one is missing or no finite number."""
        scores = [candidate.scores.get(f"{REVISION}{agent}") for agent in range(self.agents)]
        found = [score for score in scores if isinstance(score, int | float) and math.isfinite(score)]
        return found if len(found) == len(scores) else None


def validated_preference(first: Sequence[float], second: Sequence[float], delta: float) -> float | None:
    """Compares two critiques by the scores of the revisions after them.

    Args:
        first: Score of each of R agents' revision after the first critique.
        second: Likewise after the second, by the same agents.
        delta: Least mean difference.

    Returns:
        The mean difference, positive where the first is better; None where it is below ``delta``, or where fewer than
        two thirds of the agents (rounded up) agree with its sign.

    Raises:
        ValueError: The numbers of scores differ, or there are none.

    Example:
        >>> validated_preference([7, 8, 6], [5, 6, 7], delta=0.5)
        1.0
        >>> validated_preference([7, 8, 6], [7, 8, 6], delta=0.5) is None
        True
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} scores against {len(second)}; give as many of both, at least 1")
    differences = [round(one - other, DECIMALS) for one, other in zip(first, second, strict=True)]
    mean = round(math.fsum(differences) / len(differences), DECIMALS)
    agreeing = sum(difference * mean > 0 for difference in differences)
    holds = mean != 0 and abs(mean) >= delta and agreeing >= -(-2 * len(differences) // 3)
    return mean if holds else None
