"""The figures of a model that judges solutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lit_vlm.evaluation.exact_match import ExactMatch
from lit_vlm.evaluation.judgement import asks_for_steps, read_judgement, true_verdict
from lit_vlm.evaluation.step_judge import ERROR_GROUPS, RIGHT, UNNAMED, StepJudge, error_group
from lit_vlm.interfaces.critiques import Critique, CritiqueVerdict
from lit_vlm.interfaces.records import Completion

VERDICT, FIRST, UNREADABLE = "verdict_accuracy", "first_wrong_step_accuracy", "verdict_unreadable"
WRONG = "wrong"
"""Group of all wrong solutions, whatever is wrong with them."""


class CritiqueMetrics(nn.Module):
    """Collects over batches and ranks what was said of solutions."""

    def __init__(self) -> None:
        super().__init__()
        groups = (RIGHT, WRONG, *ERROR_GROUPS)
        self.judged = ExactMatch(
            [VERDICT, FIRST, *(f"{name}/{group}" for name in (VERDICT, FIRST) for group in groups)]
        )
        self.unreadable = ExactMatch([UNREADABLE])
        self.steps = StepJudge()
        self.reset()

    def update(self, completions: Sequence[Completion]) -> None:
        """Counts the critiques among generated completions: those of samples with a ``critique``."""
        for completion in completions:
            truth = completion.sample.critique
            if truth is not None:
                self._add(completion, truth)

    def _add(self, completion: Completion, truth: Critique) -> None:
        judgement = read_judgement(completion.text, len(truth.steps) or None)
        verdict = true_verdict(truth)
        if verdict is not None:
            self._count(VERDICT, truth, verdict, judgement.verdict == verdict)
            self.unreadable.update([[UNREADABLE]], [judgement.verdict is None])
        if truth.steps:
            of_steps: CritiqueVerdict = "right" if truth.first_wrong_step is None else "wrong"
            self._count(FIRST, truth, of_steps, judgement.finds_first_wrong_step(truth))
        if asks_for_steps(completion.sample):
            self.steps.update(judgement.steps, truth.steps)

    def _count(self, name: str, truth: Critique, verdict: CritiqueVerdict, found: bool) -> None:
        groups = [RIGHT]
        if verdict == "wrong":
            kind = error_group(truth.steps)
            groups = [WRONG, UNNAMED if kind == RIGHT else kind]
        self.judged.update([[name, *(f"{name}/{group}" for group in groups)]], [found])

    def compute(self) -> dict[str, float]:
        """Returns the figures seen so far, by name; those over nothing are left out.

        - ``verdict_accuracy``: share of solutions whose verdict is right; one that cannot be read is wrong, and the
          share of these is ``verdict_unreadable``;
        - ``first_wrong_step_accuracy``: share of solutions with labelled steps whose first wrong step is named, or of
          which it is said that there is none;
        - both also for ``/right`` and ``/wrong`` solutions, and by the kind of the first error, with 95 % Wilson
          intervals (``_low``, ``_high``) and ``_total``;
        - those of ``StepJudge``, where critiques label every step.
        """
        figures: dict[str, float] = {}
        for name, share in self.judged.compute().items():
            figures |= {name: share.mean, f"{name}_low": share.low, f"{name}_high": share.high}
            figures[f"{name}_total"] = float(share.total)
        figures |= {name: share.mean for name, share in self.unreadable.compute().items()}
        return figures | self.steps.compute()

    def reset(self) -> None:
        """Forgets everything seen."""
        for metric in (self.judged, self.unreadable):
            metric.reset()
            # An observation of nothing: a rank that never judges still takes part in the sums.
            metric.update([], [])
        self.steps.reset()
