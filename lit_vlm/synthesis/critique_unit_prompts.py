"""Asks critics for lists of remarks on solutions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lit_vlm.interfaces.critiques import Critique, CritiqueVerdict
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.parsing.critique_units import INSTRUCTION, critique_request
from lit_vlm.synthesis.completions import check_candidates, spoken_candidates
from lit_vlm.synthesis.judged_solution import (
    asked_about,
    made_of,
    question_text,
    reference_answer,
    single_turn,
    solution_of,
)


@dataclass(frozen=True)
class CritiqueUnitPrompts(SampleTransform):
    """Makes of each solution the prompt of its critics, crucial information first.

    The id of what is made is ``<id>#<place of the solution>``; its ``critique`` holds question, solution and, where a
    verifier graded it, the true verdict. Empty solutions are left out.

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024), its README
        and overview; the words are reconstructed.
    """

    instruction: str = INSTRUCTION
    """What a critic is told to write; it must ask for the list that ``read_units`` reads."""
    task: str = ""
    """What kind of task it is; empty says nothing."""
    criteria: tuple[str, ...] = ()
    """What a good solution does."""
    with_reference: bool = False
    """Whether critics are told the true answer. The model that learns of them is not, see ``AggregateCritiques``."""

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise UserError("instruction is empty; say what critics are to write")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns a prompt for each solution.

        Raises:
            BadSampleError: The sample has no candidates, or one of several turns.
        """
        check_candidates(sample)
        return tuple(self._asked(sample, index, candidate) for index, candidate in spoken_candidates(sample))

    def for_evaluation(self, sample: Sample) -> Sample:
        """Asks about the first solution; a sample without one stays as it is."""
        asked = self(sample) if sample.candidates else ()
        return asked[0] if asked else sample

    def anew(self, sample: Sample) -> Sample:
        """Asks about the same solution in these words, in the place of those that the critics were given.

        Raises:
            BadSampleError: The sample is about no solution.
        """
        known = solution_of(sample)
        return self._with_prompt(sample, known.question, known.response)

    def _asked(self, sample: Sample, index: int, candidate: Candidate) -> Sample:
        response, question = single_turn(sample, index, candidate), question_text(sample)
        correct = candidate.scores.get("correct")
        verdicts: dict[float | None, CritiqueVerdict] = {1.0: "right", 0.0: "wrong"}
        critique = Critique(question, response, verdict=verdicts.get(correct))
        made = made_of(sample, index, sample.prompt, critique=critique)
        return self._with_prompt(made, question, response)

    def _with_prompt(self, sample: Sample, question: str, response: str) -> Sample:
        text = critique_request(
            question,
            response,
            instruction=self.instruction,
            task=self.task,
            criteria=self.criteria,
            reference=reference_answer(sample.answer) if self.with_reference else None,
        )
        return replace(sample, messages=asked_about(sample, text))
