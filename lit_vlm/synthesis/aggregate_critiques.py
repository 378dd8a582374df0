"""Puts the critiques of several critics together to one that is worth learning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_vlm.interfaces.critiques import CritiqueUnit
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, Sample, assistant_message
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.parsing.critique_units import FATAL_SEVERITY, STEP, read_units, write_critique
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.parsing.meta_critiques import UnitLabel, read_unit_labels
from lit_vlm.synthesis.completions import check_candidates, origin_of, spoken_candidates
from lit_vlm.synthesis.critique_unit_prompts import CritiqueUnitPrompts

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class AggregateCritiques(SampleTransform):
    """Makes of the critiques of one solution a single one to imitate: the remarks that a meta-critic calls correct.

    Candidates are critiques, each with its meta-critique attached (``Candidate.critique``). Remarks labelled correct
    are united; near-duplicates are merged to one, which has the greatest severity and the longest words of them; a
    sentence sums them up, and the conclusion follows from their severity. Critiques that cannot be read, and those with
    remarks that nobody labelled, are left out. The prompt is written anew, without what only critics may know.

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024):
        meta-critique labels, union of the correct units, summary. When two remarks are near-duplicates, the words of
        the summary and the filter by verdict are ours (reconstructed).
    """

    prompt: CritiqueUnitPrompts = CritiqueUnitPrompts()
    """What the model that learns is asked."""
    similarity: float = 0.6
    """Share of common words from which two remarks on one place are the same, in (0, 1]: the words of both over the
    words of either."""
    keep_missing_detail: bool = False
    """Whether remarks are kept too to which the meta-critic misses detail."""
    fatal_severity: float = FATAL_SEVERITY
    """Severity from which a remark makes the conclusion "wrong"."""
    agree: bool = False
    """Whether a solution is left out whose verdict is known and is not what the conclusion says."""

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise UserError(f"similarity is {self.similarity}; give a share above 0 up to 1")
        if not self.fatal_severity >= 1:
            raise UserError(f"fatal_severity is {self.fatal_severity}; give 1 or more")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns the sample to imitate; nothing where its conclusion does not agree with the truth.

        Raises:
            BadSampleError: There are no critiques, they are about nothing, none can be read, or none was labelled.
        """
        check_candidates(sample)
        units = self.kept(sample)
        text = write_critique(units, self.fatal_severity)
        truth = None if sample.critique is None else sample.critique.verdict
        if self.agree and truth is not None and read_verdict(text) != truth:
            return ()
        return (self._imitating(sample, text),)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Asks for the critique, with the aggregated one as what it should be; its agreement plays no part."""
        if not sample.candidates:
            return self.prompt.anew(sample)
        units = self.kept(sample)
        return self._imitating(sample, write_critique(units, self.fatal_severity))

    def kept(self, sample: Sample) -> tuple[CritiqueUnit, ...]:
        """Returns the remarks that are left of all critiques, merged.

        Raises:
            BadSampleError: No critique can be read, or none was labelled.
        """
        accepted = ("correct", "missing detail") if self.keep_missing_detail else ("correct",)
        labelled = [labelled_units(candidate) for _, candidate in spoken_candidates(sample)]
        usable = [pairs for pairs in labelled if pairs is not None]
        if not usable:
            readable = any(read_units(candidate.text) is not None for candidate in sample.candidates)
            lack = (
                "labels of its remarks; name the meta-critic's ledger in data.attach.critiques"
                if readable
                else "remarks that can be read"
            )
            raise BadSampleError(origin_of(sample), f"has no critique with {lack}")
        units = [unit for pairs in usable for unit, label in pairs if label in accepted]
        return merge_units(units, self.similarity)

    def _imitating(self, sample: Sample, text: str) -> Sample:
        asked = self.prompt.anew(sample)
        return replace(asked, messages=(*asked.messages, assistant_message(text)), candidates=(), preferences=())


def labelled_units(candidate: Candidate) -> tuple[tuple[CritiqueUnit, UnitLabel], ...] | None:
    """Reads the remarks of a critique with what the meta-critic says of each; None where either cannot be read."""
    units = read_units(candidate.text)
    if units is None:
        return None
    if not units:
        return ()
    labels = None if candidate.critique is None else read_unit_labels(candidate.critique.text, len(units))
    return None if labels is None else tuple(zip(units, labels, strict=True))


def merge_units(units: Sequence[CritiqueUnit], similarity: float) -> tuple[CritiqueUnit, ...]:
    """Merges remarks that say the same of the same place, in the order in which they are first met.

    Two are the same where their places are (case and white space aside) and they share enough words, or where place
    and words together do.

    Args:
        units: Remarks of several critics.
        similarity: Common words over all words, from which on two are the same.

    Example:
        >>> first = CritiqueUnit("step 2", "2 + 3 is 5, not 6", 2.0)
        >>> merge_units([first, CritiqueUnit("Step 2", "2 + 3 is 5", 3.0, "write 5")], 0.6)
        (CritiqueUnit(location='step 2', description='2 + 3 is 5, not 6', severity=3.0, suggestion='write 5'),)
    """
    merged: list[CritiqueUnit] = []
    for unit in units:
        place = next((place for place, other in enumerate(merged) if _are_same(unit, other, similarity)), None)
        if place is None:
            merged.append(unit)
        else:
            merged[place] = _united(merged[place], unit)
    return tuple(merged)


def _are_same(one: CritiqueUnit, other: CritiqueUnit, similarity: float) -> bool:
    if _plain(one.location) == _plain(other.location):
        return _overlap(one.description, other.description) >= similarity
    texts = [f"{unit.location} {unit.description}" for unit in (one, other)]
    return not _name_other_steps(one, other) and _overlap(*texts) >= similarity


def _name_other_steps(one: CritiqueUnit, other: CritiqueUnit) -> bool:
    """Tells whether both are about a step by its number: then it is not the same one."""
    return all(STEP.fullmatch(unit.location) for unit in (one, other))


def _overlap(one: str, other: str) -> float:
    first, second = (set(_WORD.findall(text.lower())) for text in (one, other))
    return len(first & second) / max(1, len(first | second))


def _united(one: CritiqueUnit, other: CritiqueUnit) -> CritiqueUnit:
    return CritiqueUnit(
        one.location or other.location,
        max(one.description, other.description, key=len),
        max(one.severity, other.severity),
        max(one.suggestion, other.suggestion, key=len),
    )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
