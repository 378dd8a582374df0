"""What a completion says of a solution, in whatever form, and whether that is so."""

from __future__ import annotations

from dataclasses import dataclass

from lit_vlm.evaluation.step_judge import compare_steps, verdict_of_steps
from lit_vlm.interfaces.critiques import Critique, CritiqueVerdict, StepLabel
from lit_vlm.interfaces.records import Sample, Verdict
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.parsing.first_wrong_step import read_first_wrong_step
from lit_vlm.parsing.step_judgements import read_step_judgements


@dataclass(frozen=True)
class Judgement:
    """What could be read of a critique."""

    verdict: CritiqueVerdict | None
    """None where there is none, or it is unreadable."""
    steps: tuple[StepLabel, ...] | None
    """Labels of steps; None where there are none, or they are unreadable."""
    first_wrong_step: int | None
    """As named in words, from 1; None where no step is named."""

    def finds_first_wrong_step(self, truth: Critique) -> bool:
        """Tells whether it names the first wrong step of a solution whose steps are known, or says there is none."""
        if self.steps is not None:
            return compare_steps(self.steps, truth.steps).first_wrong
        if truth.first_wrong_step is None:
            return self.verdict == "right"
        return self.verdict == "wrong" and self.first_wrong_step == truth.first_wrong_step


def read_judgement(text: str, steps: int | None = None) -> Judgement:
    """Reads a critique: its conclusion, or labels of steps, whose verdict follows from them where none is stated.

    Args:
        text: The critique.
        steps: Steps that the judged solution has, where that is known.
    """
    labels = read_step_judgements(text)
    verdict = read_verdict(text)
    if verdict is None and labels is not None:
        verdict = verdict_of_steps(labels, steps)
    return Judgement(verdict, labels, read_first_wrong_step(text))


def true_verdict(truth: Critique) -> CritiqueVerdict | None:
    """Tells whether a solution is right, by what is said of it or of its steps; None where nothing is known."""
    return truth.verdict or (verdict_of_steps(truth.steps) if truth.steps else None)


def judged_verdict(sample: Sample, text: str) -> Verdict | None:
    """Says whether a critique judges its solution rightly.

    Args:
        sample: A judging question (``critique`` set).
        text: What was generated.

    Returns:
        The verdict on the judge, ``parsed`` holding the judge's own; None where the truth is not known.
    """
    truth = sample.critique
    wanted = None if truth is None else true_verdict(truth)
    if truth is None or wanted is None:
        return None
    said = read_judgement(text, len(truth.steps) or None).verdict
    return Verdict(correct=said == wanted, parsed=said, formatted=said is not None)


def asks_for_steps(sample: Sample) -> bool:
    """Tells whether a judging question wants every step labelled: its critique does so, or there is none in words."""
    truth = sample.critique
    if truth is None or not truth.steps:
        return False
    turns = [message.text for message in sample.messages if message.role == "assistant" and message.train]
    written = turns[-1] if turns else truth.text
    return not written or read_step_judgements(written) is not None
