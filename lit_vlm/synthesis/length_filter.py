"""Keeps completions, or questions, of a certain length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.synthesis.curation import CountingOperator, TextOf, check_one_of, check_range, filter_texts

Unit = Literal["words", "characters"]


@dataclass(frozen=True)
class LengthFilter(CountingOperator):
    """Keeps by length, white space evened out. For tokens: ``CandidateFilter`` on the score ``length`` of a ledger."""

    of: TextOf = "candidates"
    """What is measured: each candidate, or the text of a sample's last turn before the completion."""
    unit: Unit = "words"
    """What it is measured in."""
    least: int = 1
    """Least length that is kept."""
    most: int | None = None
    """Largest length that is kept; None for no bound."""

    def __post_init__(self) -> None:
        check_one_of("of", self.of, get_args(TextOf))
        check_one_of("unit", self.unit, get_args(Unit))
        if self.least < 0:
            raise UserError(f"least is {self.least}; give 0 or more")
        check_range(self.least, self.most)

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns what is neither too short nor too long, both bounds included."""
        return filter_texts(samples, self.of, self._reason, left_out)

    def _reason(self, text: str) -> str | None:
        words = text.split()
        length = len(words) if self.unit == "words" else len(" ".join(words))
        if length < self.least:
            return f"{self.of} of fewer than {self.least:,} {self.unit}"
        if self.most is not None and length > self.most:
            return f"{self.of} of more than {self.most:,} {self.unit}"
        return None
