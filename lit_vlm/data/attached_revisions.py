"""Gives critiques the scores of the revisions that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_vlm.functional.next_turn import CANDIDATE, PARENT
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.parsing.critique_units import REVISION


def attach_revisions(samples: Sequence[Sample], revised: Sequence[Sample]) -> tuple[list[Sample], str]:
    """Adds ``revision/0``, ``revision/1``, … to the scores of each critique, one for each reviser.

    A revision's score is its ``reward``; where it has none, the score of the judges' critiques of it; where it was not
    judged, ``correct``.

    Args:
        samples: Critics' questions with critiques as candidates.
        revised: What ``RevisionPrompts`` made of them, with the revisions as candidates, revisers in the same order
            everywhere. Where one is missing nothing is attached, since nobody could tell which.

    Returns:
        The samples with scores, and in a line what came of it.

    Raises:
        UserError: None belongs to any critique, or a revision has no score.
    """
    revisers = max((len(sample.candidates) for sample in revised), default=0)
    scores: dict[tuple[str, int], dict[str, float]] = {}
    incomplete = 0
    for sample in revised:
        target = sample.meta.extra.get(PARENT), sample.meta.extra.get(CANDIDATE)
        if not isinstance(target[0], str) or not isinstance(target[1], int):
            continue
        if len(sample.candidates) < revisers:
            incomplete += 1
            continue
        scores[target[0], target[1]] = {
            f"{REVISION}{number}": _score(sample, candidate) for number, candidate in enumerate(sample.candidates)
        }
    attached, critiques, found = [], 0, 0
    for sample in samples:
        added = [scores.get((sample.id, place)) for place in range(len(sample.candidates))]
        critiques, found = critiques + len(added), found + sum(each is not None for each in added)
        candidates = tuple(
            replace(candidate, scores={**candidate.scores, **(each or {})})
            for candidate, each in zip(sample.candidates, added, strict=True)
        )
        attached.append(replace(sample, candidates=candidates))
    told = f"{found:,} of {critiques:,} critiques have {revisers:,} scored revisions"
    if incomplete:
        told += f"; {incomplete:,} have fewer revisions than others, which are left out"
    if not found:
        raise UserError(f"{told}; name ledgers whose questions RevisionPrompts made of these critiques")
    return attached, told


def _score(sample: Sample, candidate: Candidate) -> float:
    judged = None if candidate.critique is None else candidate.critique.score
    known = [candidate.scores.get("reward"), judged, candidate.scores.get("correct")]
    score = next((score for score in known if score is not None), None)
    if score is None:
        raise UserError(
            f"sample {sample.id!r} has a revision without reward, judgement or verdict; judge the revisions with "
            "CritiquePrompts and name the judges' ledgers in data.attach.critiques, or predict them with model.reward"
        )
    return float(score)
