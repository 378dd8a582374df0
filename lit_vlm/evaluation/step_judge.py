"""How well a judge labels the steps of solutions: right or wrong, by which kind of error, and where it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lit_vlm.evaluation.exact_match import ExactMatch
from lit_vlm.interfaces.critiques import CritiqueVerdict, StepLabel
from lit_vlm.parsing.step_judgements import ERROR_TYPES, read_error_type

RIGHT, UNNAMED = "right", "unnamed"
"""Groups of solutions without an error, and of errors of no known kind."""
ERROR_GROUPS = (*(name.replace(" ", "_") for name in ERROR_TYPES), UNNAMED)
"""Names of errors in figures."""
STEPS, TYPES = "step_accuracy", "error_type_accuracy"


@dataclass(frozen=True)
class StepAgreement:
    """How a judge's labels of one solution compare with the true ones."""

    agreed: tuple[bool, ...]
    """Of each true step, whether its label is found."""
    types: tuple[tuple[str, bool], ...]
    """Of each wrong step whose kind of error is known, that kind's group, and whether it is found."""
    first_wrong: bool
    """Whether the first wrong step is found, or that there is none."""

    @property
    def step_accuracy(self) -> float:
        """Share of the steps whose label is found."""
        return sum(self.agreed) / len(self.agreed)


def compare_steps(judged: Sequence[StepLabel] | None, true: Sequence[StepLabel]) -> StepAgreement:
    """Compares a judge's labels with the true ones, step by step.

    Steps that the judge leaves out count as wrongly judged, those beyond the true ones are ignored, and labels that
    could not be read are wrong at every step. That nothing is wrong is found only where every step was called right.

    Args:
        judged: The judge's labels; None where they could not be read.
        true: The true ones, at least one.

    Raises:
        ValueError: There is no true label.

    Source:
        Ai et al., "ProJudge" (2025), reconstructed. Which steps' kinds are compared where the truth does not name one
        is ours: none.

    Example:
        >>> true = [StepLabel("a", True), StepLabel("b", False, "reasoning")]
        >>> compare_steps([StepLabel("", True), StepLabel("", False, "knowledge")], true)
        StepAgreement(agreed=(True, True), types=(('reasoning', False),), first_wrong=True)
    """
    if not true:
        raise ValueError("there is no true label to compare with")
    given: Sequence[StepLabel] = () if judged is None else judged[: len(true)]
    labels: list[StepLabel | None] = [*given, *[None] * (len(true) - len(given))]
    pairs = list(zip(labels, true, strict=True))
    types = (
        (kind, label is not None and read_error_type(label.error_type) == kind)
        for label, truth in pairs
        if not truth.correct and (kind := read_error_type(truth.error_type)) is not None
    )
    return StepAgreement(
        agreed=tuple(label is not None and label.correct == truth.correct for label, truth in pairs),
        types=tuple((kind.replace(" ", "_"), found) for kind, found in types),
        first_wrong=None not in labels[: _first_wrong(true)] and _first_wrong(labels) == _first_wrong(true),
    )


def verdict_of_steps(judged: Sequence[StepLabel], count: int | None = None) -> CritiqueVerdict | None:
    """Tells what labels of steps say of the solution: wrong where a step is, right where every one is.

    Args:
        judged: The labels.
        count: Steps that the solution has, where that is known; None for as many as there are labels.

    Returns:
        The verdict; None where no label says wrong, but not every step has one.
    """
    labels = judged[:count]
    if not all(label.correct for label in labels):
        return "wrong"
    return "right" if labels and len(labels) == (len(labels) if count is None else count) else None


def error_group(steps: Sequence[StepLabel]) -> str:
    """Names the group of a solution by the first of its errors: one of ``ERROR_GROUPS``, or ``right``."""
    first = next((step for step in steps if not step.correct), None)
    if first is None:
        return RIGHT
    kind = read_error_type(first.error_type)
    return UNNAMED if kind is None else kind.replace(" ", "_")


class StepJudge(nn.Module):
    """Collects over batches and ranks how steps were judged."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = ExactMatch([STEPS, TYPES, *(f"{TYPES}/{group}" for group in ERROR_GROUPS)])
        self.reset()

    def update(self, judged: Sequence[StepLabel] | None, true: Sequence[StepLabel]) -> None:
        """Counts the steps of one solution; see ``compare_steps``."""
        agreement = compare_steps(judged, true)
        self.shares.update([[STEPS]] * len(agreement.agreed), agreement.agreed)
        self.shares.update(
            [[TYPES, f"{TYPES}/{kind}"] for kind, _ in agreement.types], [found for _, found in agreement.types]
        )

    def compute(self) -> dict[str, float]:
        """Returns the figures seen so far, by name; those over nothing are left out.

        ``step_accuracy`` is the share of steps whose label is found, ``error_type_accuracy`` that of wrong steps whose
        kind of error is, also by kind (``error_type_accuracy/<kind>``). Beside each stands what it was measured on
        (``_total``), and no interval: steps of one solution are judged together.
        """
        figures: dict[str, float] = {}
        for name, share in self.shares.compute().items():
            figures |= {name: share.mean, f"{name}_total": float(share.total)}
        return figures

    def reset(self) -> None:
        """Forgets everything seen."""
        self.shares.reset()
        # An observation of nothing: a rank that never judges still takes part in the sums.
        self.shares.update([], [])


def _first_wrong(steps: Sequence[StepLabel | None]) -> int | None:
    """Counts the steps up to the first wrong one, that included; None where none is."""
    return next((number for number, step in enumerate(steps, 1) if step is not None and not step.correct), None)
