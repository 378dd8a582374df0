"""Puts what judges wrote beside the completions that they judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_vlm.functional.next_turn import CANDIDATE, PARENT
from lit_vlm.interfaces.critiques import Critique, CritiqueVerdict
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.parsing.step_judgements import read_step_judgements


@dataclass(frozen=True)
class Attached:
    """Samples with judged candidates, and what came of it."""

    samples: list[Sample]
    judged: int
    """Candidates that have a critique."""
    candidates: int
    """Candidates in all."""
    critiques: int
    """Critiques that were read."""
    without_verdict: tuple[str, ...]
    """Ids of the judging questions of critiques that say neither right nor wrong, one for each critique."""
    without_candidate: tuple[str, ...]
    """Ids of judging questions about solutions that are not there."""

    def describe(self) -> str:
        """Tells it in one line."""
        told = [f"{self.judged:,} of {self.candidates:,} candidates are judged, by {self.critiques:,} critiques"]
        if self.without_verdict:
            told.append(
                f"{len(self.without_verdict):,} critiques have no verdict (the first: {self.without_verdict[0]})"
            )
        if self.without_candidate:
            told.append(
                f"{len(self.without_candidate):,} are about solutions that are not here (the first: "
                f"{self.without_candidate[0]})"
            )
        return "; ".join(told)


def attach_critiques(samples: Sequence[Sample], judgements: Sequence[Sample]) -> Attached:
    """Gives each candidate the critique that judges wrote of it.

    Of several, the first is taken that says what most of them say, that of the first where they tie. Its score is the
    share of them that say "right".

    Args:
        samples: With the solutions as candidates.
        judgements: Judging questions, whose candidates are critiques; ``meta.extra`` names ``parent`` and
            ``candidate``, or the id does, as ``<parent>#<candidate>``. Where they hold the solution itself, that counts
            for every candidate that says it, wherever it stands by now.
    """
    places: dict[str, int] = {sample.id: place for place, sample in enumerate(samples)}
    given: dict[tuple[int, int], list[Critique]] = {}
    critiques = 0
    without_verdict: list[str] = []
    without_candidate: list[str] = []
    for judgement in judgements:
        parent, index = _target(judgement)
        place = places.get(parent)
        targets = [] if place is None else _candidates(samples[place], index, judgement)
        if place is None or not targets:
            without_candidate.append(judgement.id)
            continue
        for candidate in judgement.candidates:
            critique = _critique(samples[place], judgement, candidate)
            critiques += 1
            if critique.verdict is None:
                without_verdict.append(judgement.id)
            for target in targets:
                given.setdefault((place, target), []).append(critique)
    attached = [
        replace(
            sample,
            candidates=tuple(
                replace(candidate, critique=_agreed(given[place, index])) if (place, index) in given else candidate
                for index, candidate in enumerate(sample.candidates)
            ),
        )
        for place, sample in enumerate(samples)
    ]
    total = sum(len(sample.candidates) for sample in samples)
    return Attached(attached, len(given), total, critiques, tuple(without_verdict), tuple(without_candidate))


def _target(judgement: Sample) -> tuple[str, int | None]:
    extra = judgement.meta.extra
    if PARENT in extra:
        index = extra.get(CANDIDATE)
        return str(extra[PARENT]), index if isinstance(index, int) else None
    parent, _, number = judgement.id.rpartition("#")
    return parent, int(number) if number.isdecimal() else None


def _candidates(sample: Sample, index: int | None, judgement: Sample) -> list[int]:
    """Lists the places of the candidates that a judging question is about."""
    solution = [] if judgement.critique is None else judgement.critique.response.split()
    if not solution:
        return [index] if index is not None and index < len(sample.candidates) else []
    # Of completions that say the same one alone is judged, and candidates may have moved since.
    return [place for place, candidate in enumerate(sample.candidates) if candidate.text.split() == solution]


def _critique(sample: Sample, judgement: Sample, candidate: Candidate) -> Critique:
    text = candidate.text
    steps = read_step_judgements(text) or ()
    verdict: CritiqueVerdict | None = read_verdict(text)
    if verdict is None and steps:
        verdict = "right" if all(step.correct for step in steps) else "wrong"
    asked = judgement.critique
    response = "" if asked is None else asked.response
    return Critique(sample.question, response, text, verdict, steps=steps)


def _agreed(critiques: Sequence[Critique]) -> Critique:
    verdicts = [critique.verdict for critique in critiques if critique.verdict is not None]
    if not verdicts:
        return critiques[0]
    # Of equal counts the first one met is the most common.
    verdict = Counter(verdicts).most_common(1)[0][0]
    first = next(critique for critique in critiques if critique.verdict == verdict)
    return replace(first, score=verdicts.count("right") / len(verdicts))
