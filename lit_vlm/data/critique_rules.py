"""Which critiques are worth learning from, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch.utilities import rank_zero_info

from lit_vlm.data.records.critique_reader import SOLUTION_CORRECT
from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.parsing.critique_verdict import is_complete

CUT_OFF = "they neither conclude nor label steps nor grade"
DISAGREES = "their verdict is not the verifier's"
REPEATED = "solution and critique are those of another record"
TOO_LONG = "they are longer than data.max_sample_tokens"
NAMED = 3
"""Records named of those that are left out for one reason."""


class CritiqueRules:
    """Decides which critiques of a split are kept, and counts why others are not.

    Args:
        only_complete: Whether critiques are left out that neither conclude nor label steps nor grade.
        verdict_agreement: Whether those are whose verdict is not the verifier's, where that is known.
        is_training: Whether repeats are.
        is_too_long: Tells which samples are left out for their length; None leaves none out.

    Source:
        Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique Fine-Tuning on One Problem"
        (2025), ``prompts/generate_teacher_critique.py`` (confirmed-in-code): critiques that conclude, each once. The
        filter by the verifier is ours.
    """

    def __init__(
        self,
        *,
        only_complete: bool = True,
        verdict_agreement: bool = False,
        is_training: bool = True,
        is_too_long: Callable[[Sample], bool] | None = None,
    ) -> None:
        self._only_complete = only_complete
        self._verdict_agreement = verdict_agreement
        self._is_training = is_training
        self._is_too_long = is_too_long
        self._left_out: dict[str, list[str]] = {}
        self._unclear: list[str] = []
        self._seen: set[int] = set()
        self._solutions: set[tuple[str, str]] = set()
        self._total = self._critiques = self._checked = 0

    def leaves_out(self, origin: str, reason: str) -> bool:
        """Counts a record that is left out for a reason found elsewhere."""
        self._total += 1
        return self._leaves_out(origin, reason)

    def _leaves_out(self, origin: str, reason: str) -> bool:
        self._left_out.setdefault(reason, []).append(origin)
        return False

    def keeps(self, sample: Sample) -> bool:
        """Tells whether a sample is kept, and remembers it."""
        self._total += 1
        reason = None if sample.critique is None else self._reason(sample, sample.critique)
        if reason is None and self._is_too_long is not None and self._is_too_long(sample):
            reason = TOO_LONG
        if reason is not None:
            return self._leaves_out(sample.meta.origin, reason)
        if sample.critique is not None:
            self._critiques += 1
            self._solutions.add((sample.critique.question, sample.critique.response))
            if sample.critique.verdict is None and is_complete(sample.critique.text):
                self._unclear.append(sample.meta.origin)
        return True

    def _reason(self, sample: Sample, critique: Critique) -> str | None:
        if not critique.text or sample.preferences:
            return None
        has_grades = bool(critique.steps or critique.units) or critique.score is not None
        if self._only_complete and not has_grades and not is_complete(critique.text):
            return CUT_OFF
        correct = sample.meta.extra.get(SOLUTION_CORRECT)
        self._checked += correct is not None
        if self._verdict_agreement and correct is not None and critique.verdict != _verdict(correct):
            return DISAGREES
        key = hash((sample.question, critique.response, critique.text, sample.images))
        if self._is_training and key in self._seen:
            return REPEATED
        self._seen.add(key)
        return None

    def tell(self, option: str) -> None:
        """States what was counted.

        Raises:
            UserError: Verdicts were to be checked, and no record has an answer.
        """
        if self._verdict_agreement and self._critiques and not self._checked:
            raise UserError(
                f"{option}: data.verdict_agreement is true, and no critique has an answer to check its solution with; "
                "name the column with data.columns.answer"
            )
        for reason, origins in self._left_out.items():
            rank_zero_info(
                f"{option}: {len(origins):,} of {self._total:,} records are left out since {reason} "
                f"({_listed(origins)})"
            )
        if self._unclear:
            rank_zero_info(
                f"{option}: {len(self._unclear):,} of {self._critiques:,} critiques conclude neither right "
                f"nor wrong ({_listed(self._unclear)})"
            )
        if self._is_training and self._critiques > 1 and len(self._solutions) < 2:
            rank_zero_info(
                f"warning: {option}: all {self._critiques:,} critiques are of one solution; learning to "
                "judge needs different ones"
            )


def _verdict(correct: bool) -> str:
    return "right" if correct else "wrong"


def _listed(origins: list[str]) -> str:
    shown = ", ".join(origins[:NAMED])
    return shown + (f" and {len(origins) - NAMED:,} more" if len(origins) > NAMED else "")
