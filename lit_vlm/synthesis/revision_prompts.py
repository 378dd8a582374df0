"""Asks for solutions to be revised after each critique of them."""

from __future__ import annotations

from dataclasses import dataclass

from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import check_candidates, spoken_candidates
from lit_vlm.synthesis.judged_solution import asked_about, made_of, single_turn, solution_of

INSTRUCTION = (
    "Below are a question, a solution and a critique of it. Write the solution anew, mending what the critique finds "
    "at fault and nothing else, in the form that the question asks for."
)
"""What a reviser is told where nothing else is given."""


@dataclass(frozen=True)
class RevisionPrompts(SampleTransform):
    """Makes of each critique the prompt to revise its solution.

    The samples are those that critics were asked, their candidates the critiques. The id of what is made is
    ``<id>#<place of the critique>``, so that its ledgers go back by ``attach: {revisions: …}``; answer and pictures
    are those of the question, so that a verifier grades the revisions.

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024), multi-agent
        revision validation; the words are reconstructed.
    """

    instruction: str = INSTRUCTION
    """What a reviser is told."""

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise UserError("instruction is empty; say what the reviser is to write")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns a prompt for each critique.

        Raises:
            BadSampleError: The sample has no critiques, does not say what they are about, or one has several turns.
        """
        check_candidates(sample)
        about = solution_of(sample)
        return tuple(self._asked(sample, index, candidate, about) for index, candidate in spoken_candidates(sample))

    def for_evaluation(self, sample: Sample) -> Sample:
        """Asks for the revision after the first critique; a sample without one stays as it is."""
        asked = self(sample) if sample.candidates else ()
        return asked[0] if asked else sample

    def _asked(self, sample: Sample, index: int, candidate: Candidate, about: Critique) -> Sample:
        critique = single_turn(sample, index, candidate)
        text = "\n".join(
            [
                self.instruction,
                f"Question: {about.question}",
                f"Solution: {about.response}",
                f"Critique: {critique}",
            ]
        )
        # What is written is a solution, not a judgement.
        return made_of(sample, index, asked_about(sample, text), critique=None)
