"""Lets no kind of question outweigh the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.synthesis.curation import CountingOperator, check_one_of, draw_of_each, refuse_if_any

By = Literal["category", "difficulty", "source", "answer", "verdict"]


@dataclass(frozen=True)
class BalanceCategories(CountingOperator):
    """Keeps at most so many samples of each kind, drawn by a hash of ``seed`` and id."""

    by: By = "category"
    """What samples are told apart by: their task, level or source, the answer's value, or whether the solution that
    they judge is right."""
    most: int | None = None
    """Most samples of a kind; None for ``ratio`` times those of the rarest kind."""
    ratio: float = 1.0
    """How many times the rarest kind another may have, 1 or more; where ``most`` is None."""
    seed: int = 0
    """Names the draw."""

    def __post_init__(self) -> None:
        check_one_of("by", self.by, get_args(By))
        if self.most is not None and self.most < 1:
            raise UserError(f"most is {self.most}; give at least 1, or null to go by the rarest kind")
        if not 1 <= self.ratio < math.inf:
            raise UserError(f"ratio is {self.ratio}; give 1 or more")
        if self.most is not None and self.ratio != 1:
            raise UserError(f"most is {self.most} and ratio is {self.ratio}; give one of them")

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns the samples that are drawn.

        Raises:
            UserError: A sample does not say which kind it is of.
        """
        kinds = [self._kind(sample) for sample in samples]
        refuse_if_any(
            [sample for sample, kind in zip(samples, kinds, strict=True) if not kind],
            f"has no {self.by}",
            "balance by what all samples have",
        )
        sizes = Counter(kinds)
        most = self.most
        if most is None and sizes:
            most = math.floor(self.ratio * min(sizes.values()))
        drawn = draw_of_each(samples, kinds, most, self.seed)
        kept = []
        for sample, kind, is_drawn in zip(samples, kinds, drawn, strict=True):
            if is_drawn:
                kept.append(sample)
            else:
                left_out[f"samples of {self.by} {kind} beyond {most:,}"] += 1
        return kept

    def _kind(self, sample: Sample) -> str:
        match self.by:
            case "category":
                return sample.meta.category
            case "source":
                return sample.meta.source
            case "difficulty":
                return "" if sample.meta.difficulty is None else str(sample.meta.difficulty)
            case "answer":
                return "" if sample.answer is None else str(sample.answer.value)
        return "" if sample.critique is None else sample.critique.verdict or ""
