"""Sorts questions into levels of difficulty by how often a model got them right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.synthesis.curation import CountingOperator, check_names, draw_of_each
from lit_vlm.synthesis.pass_rates import check_right_from, pass_rates


@dataclass(frozen=True)
class DifficultyTiers(CountingOperator):
    """Writes each sample's tier into ``meta.difficulty``: 1 for the highest pass rates, then 2 and so on.

    Curricula over difficulty and reports by difficulty then go by what the model found hard. The share itself stands in
    ``meta.extra["pass_rate"]``.

    Source:
        Hong et al., GLM-4.1V-Thinking (2025), section 5.3: offline tiers from pass@k (from-paper-text). The report
        gives no bounds; these are ours.
    """

    bounds: tuple[float, ...] = (1.0, 0.5, 0.1)
    """Least share of right candidates of each tier but the last, falling; the last takes the rest."""
    keep: tuple[int, ...] | None = None
    """Tiers that are kept; None for all."""
    per_tier: int | None = None
    """Most samples of a tier, drawn by a hash of ``seed`` and id; None for all."""
    score: tuple[str, ...] = ("correct",)
    """Names of the grades that are added up to a candidate's score."""
    right_from: float = 1.0
    """Score from which a candidate is right."""
    seed: int = 0
    """Names the draw."""

    def __post_init__(self) -> None:
        falls = all(before > after for before, after in zip(self.bounds, self.bounds[1:], strict=False))
        if not self.bounds or not falls or not all(0 < bound <= 1 for bound in self.bounds):
            raise UserError(f"bounds is {list(self.bounds)}; give shares above 0 and up to 1, each below the last")
        tiers = len(self.bounds) + 1
        if self.keep is not None and (not self.keep or not set(self.keep) <= set(range(1, tiers + 1))):
            raise UserError(f"keep is {list(self.keep)}; with these bounds there are tiers 1 to {tiers}")
        if self.per_tier is not None and self.per_tier < 1:
            raise UserError(f"per_tier is {self.per_tier}; give at least 1, or null to keep all")
        check_names("score", self.score)
        check_right_from(self.right_from)

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns the samples of the tiers that are kept, each with its tier.

        Raises:
            UserError: A sample has no candidates, or one of them lacks a grade.
        """
        rates = pass_rates(samples, self.score, self.right_from)
        tiers = [1 + sum(rate < bound for bound in self.bounds) for rate in rates]
        drawn = draw_of_each(samples, tiers, self.per_tier, self.seed)
        kept = []
        for sample, rate, tier, is_drawn in zip(samples, rates, tiers, drawn, strict=True):
            if self.keep is not None and tier not in self.keep:
                left_out[f"samples of tier {tier}"] += 1
            elif not is_drawn:
                left_out[f"samples of tier {tier} beyond {self.per_tier:,}"] += 1
            else:
                meta = replace(sample.meta, difficulty=tier, extra={**sample.meta.extra, "pass_rate": rate})
                kept.append(replace(sample, meta=meta))
        return kept
