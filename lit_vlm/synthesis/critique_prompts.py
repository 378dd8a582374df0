"""Asks a critic about solutions, in words."""

from __future__ import annotations

from dataclasses import dataclass

from lit_vlm.interfaces.critiques import Critique, CritiqueVerdict
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.parsing.judge_prompts import RUBRIC, judge_request
from lit_vlm.synthesis.completions import check_candidates, completion_key, first_of_each, spoken_candidates
from lit_vlm.synthesis.judged_solution import asked_about, made_of, question_text, single_turn


@dataclass(frozen=True)
class CritiquePrompts(SampleTransform):
    """Makes of each distinct solution the question whether it is right.

    The id of what is made is ``<id>#<place of the solution>``, and ``meta.extra`` names ``parent`` and ``candidate``,
    so that the critic's ledger can be attached to the solutions'. Its ``critique`` holds question, solution and, where
    a verifier graded it, the true verdict. Empty solutions are left out, and so are repeats of an earlier one.

    Source:
        Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique Fine-Tuning on One Problem"
        (2025), ``prompts/generate_teacher_critique.py`` (confirmed-in-code); the words are ours.
    """

    rubric: str = RUBRIC
    """How to judge; it must ask to end with "Conclusion: right [END]" or "Conclusion: wrong [END]"."""

    def __post_init__(self) -> None:
        if not self.rubric.strip():
            raise UserError("rubric is empty; say how to judge")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns one question for each distinct solution.

        Raises:
            BadSampleError: The sample has no candidates, or one of several turns.
        """
        check_candidates(sample)
        distinct = first_of_each(spoken_candidates(sample), key=lambda entry: completion_key(entry[1].messages))
        return tuple(self._asked(sample, index, candidate) for index, candidate in distinct)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Asks about the first solution; a sample without one stays as it is."""
        asked = self(sample) if sample.candidates else ()
        return asked[0] if asked else sample

    def _asked(self, sample: Sample, index: int, candidate: Candidate) -> Sample:
        question, response = question_text(sample), single_turn(sample, index, candidate)
        messages = asked_about(sample, judge_request(question, response, self.rubric))
        critique = Critique(question, response, verdict=true_verdict(candidate))
        # The question's answer is no answer to this one.
        return made_of(sample, index, messages, critique=critique, answer=None)


def true_verdict(candidate: Candidate) -> CritiqueVerdict | None:
    """Tells what a verifier says of a solution; None where it was not asked.

    Example:
        >>> true_verdict(Candidate((), {"correct": 0.0})), true_verdict(Candidate(()))
        ('wrong', None)
    """
    verdicts: dict[float | None, CritiqueVerdict] = {1.0: "right", 0.0: "wrong"}
    return verdicts.get(candidate.scores.get("correct"))
