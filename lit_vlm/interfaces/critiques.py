"""What somebody says of a solution: a verdict, labels of its steps, single remarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

CritiqueVerdict = Literal["right", "wrong"]
CRITIQUE_VERDICTS: tuple[CritiqueVerdict, ...] = get_args(CritiqueVerdict)


@dataclass(frozen=True)
class StepLabel:
    """What is said of one step of a solution."""

    text: str
    """The step."""
    correct: bool
    error_type: str | None = None
    """Kind of the error, such as ``numerical calculation``; None for a right step, or where it is not known."""
    explanation: str = ""


@dataclass(frozen=True)
class CritiqueUnit:
    """One remark on one flaw of a solution."""

    location: str
    """Where the flaw is: the words it is about, or a step's number."""
    description: str
    """What is wrong."""
    severity: float = 1.0
    """From 1 on; larger is worse."""
    suggestion: str = ""
    """How to mend it."""


@dataclass(frozen=True)
class Critique:
    """The judgement of one solution."""

    question: str
    """What was asked, as text."""
    response: str
    """The solution that is judged."""
    text: str = ""
    """The critique as it is written, its verdict included; empty where only labels are known."""
    verdict: CritiqueVerdict | None = None
    """Whether the solution is right; None where nothing says so."""
    score: float | None = None
    """A grade, where there is one."""
    steps: tuple[StepLabel, ...] = ()
    """The solution's steps in order, where they are labelled."""
    units: tuple[CritiqueUnit, ...] = ()
    """Single remarks, where they are told apart."""

    @property
    def first_wrong_step(self) -> int | None:
        """Number of the first wrong step, from 1; None where no step is labelled wrong."""
        return next((number for number, step in enumerate(self.steps, 1) if not step.correct), None)
