"""Keeps completions, or questions, by the words in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.synthesis.curation import CountingOperator, TextOf, check_one_of, filter_texts

Keep = Literal["any", "all", "none"]


@dataclass(frozen=True)
class PhraseFilter(CountingOperator):
    """Keeps what holds certain phrases, or leaves it out; white space counts as one space."""

    phrases: tuple[str, ...]
    """What is looked for, as it stands."""
    keep: Keep = "none"
    """What is kept: what holds any of the phrases, all of them, or none."""
    of: TextOf = "candidates"
    """Where is looked: in each candidate, or in a sample's last turn before the completion."""
    ignore_case: bool = True
    """Whether capitals and small letters are the same."""

    def __post_init__(self) -> None:
        if not self.phrases or not all(phrase.strip() for phrase in self.phrases):
            raise UserError(f"phrases is {list(self.phrases)}; give one or more, none of them empty")
        check_one_of("keep", self.keep, get_args(Keep))
        check_one_of("of", self.of, get_args(TextOf))

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns what holds the phrases, or does not."""
        return filter_texts(samples, self.of, self._reason, left_out)

    def _reason(self, text: str) -> str | None:
        evened = self._evened(text)
        found = [phrase for phrase in self.phrases if self._evened(phrase) in evened]
        if self.keep == "none":
            return f"{self.of} that hold {found[0]!r}" if found else None
        if len(found) >= (1 if self.keep == "any" else len(self.phrases)):
            return None
        return f"{self.of} that hold {'none' if self.keep == 'any' else 'not all'} of the phrases"

    def _evened(self, text: str) -> str:
        evened = " ".join(text.split())
        return evened.casefold() if self.ignore_case else evened
