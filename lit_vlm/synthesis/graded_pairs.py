"""Pairs of completions that somebody graded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Preference, Sample
from lit_vlm.synthesis.completions import DECIMALS, completion_key, first_of_each, spoken_candidates, total_score
from lit_vlm.synthesis.pair_transform import PairTransform, preference_between


@dataclass(frozen=True)
class GradedPairs(PairTransform):
    """Prefers the completion with the higher score, where the gap is wide enough.

    Completions that are empty, lack a grade or repeat an earlier one are left out; equal scores are never paired.

    Source:
        Li et al., Multi-modal preference alignment remedies regression of visual instruction tuning on language model
        (2024), and its released scripts: five grades of 0 to 4, label noise of 25, 50 and 75 % (confirmed-in-code).
        How grades become pairs is reconstructed; the gap, the ties and ``rule: all`` are ours.
    """

    grades: tuple[str, ...] = ("helpfulness", "correctness")
    """Names of the grades that make up a completion's score."""
    reduction: Literal["sum", "mean"] = "sum"
    """Whether the score is the sum or the mean of the grades."""
    min_gap: float = 2.0
    """Least difference of two scores, 0 or more."""
    rule: Literal["best_worst", "all"] = "best_worst"
    """``best_worst``: the highest against the lowest, the first of those that tie; ``all``: every two that are far
    enough apart, sharing the weight of one pair."""
    flip: float = 0.0
    """Probability in [0, 1] that a training pair is turned round, as label noise; evaluation is without it."""
    seed: int = 0
    """Names the draw of the pairs that are turned round."""

    def __post_init__(self) -> None:
        if not self.grades or len(set(self.grades)) != len(self.grades):
            raise UserError(f"grades is {list(self.grades)}; name one or more grades, each once")
        if not 0 <= self.min_gap < math.inf:
            raise UserError(f"min_gap is {self.min_gap}; give 0 or more")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is {self.flip}; give a share from 0 to 1")

    def pairs(self, sample: Sample) -> tuple[Preference, ...]:
        """Returns the pairs as graded."""
        ranked = self._ranked(sample)
        if self.rule == "best_worst":
            lowest = next((entry for entry in ranked if entry[0] == ranked[-1][0]), None)
            contests = [(ranked[0], lowest)] if lowest else []
        else:
            contests = [(better, worse) for place, better in enumerate(ranked) for worse in ranked[place + 1 :]]
        found = [
            preference_between(chosen.messages, rejected.messages)
            for (high, chosen), (low, rejected) in contests
            if high > low and round(high - low, DECIMALS) >= self.min_gap
        ]
        return tuple(pair for pair in found if pair is not None)

    def training_pairs(self, sample: Sample) -> Sequence[Preference]:
        """Returns the pairs, some of them turned round; which ones, the seed, the sample's id and the texts decide."""
        return [self._with_noise(sample.id, pair) for pair in self.pairs(sample)]

    def _ranked(self, sample: Sample) -> list[tuple[float, Candidate]]:
        """Orders candidates from the highest score down, those that tie as given."""
        divisor = len(self.grades) if self.reduction == "mean" else 1
        scored = [(total_score(candidate, self.grades), candidate) for _, candidate in spoken_candidates(sample)]
        graded = [(score / divisor, candidate) for score, candidate in scored if score is not None]
        distinct = first_of_each(graded, key=lambda entry: completion_key(entry[1].messages))
        return sorted(distinct, key=lambda entry: -entry[0])

    def _with_noise(self, sample_id: str, pair: Preference) -> Preference:
        texts = ["".join(message.text for message in side) for side in (pair.chosen, pair.rejected)]
        if random_stream(self.seed, "flip", sample_id, *texts).random() >= self.flip:
            return pair
        return replace(pair, chosen=pair.rejected, rejected=pair.chosen)
