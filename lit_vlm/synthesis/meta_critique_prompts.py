"""Asks a meta-critic which remarks of a critique are so."""

from __future__ import annotations

from dataclasses import dataclass

from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.parsing.critique_units import read_units
from lit_vlm.parsing.meta_critiques import INSTRUCTION, meta_critique_request
from lit_vlm.synthesis.completions import check_candidates, spoken_candidates
from lit_vlm.synthesis.judged_solution import asked_about, made_of, reference_answer, solution_of


@dataclass(frozen=True)
class MetaCritiquePrompts(SampleTransform):
    """Makes of each critique with remarks the prompt of a meta-critic.

    The samples are those that critics were asked, their candidates the critiques. The id of what is made is
    ``<id>#<place of the critique>``, so that its ledger goes back by ``attach: {critiques: …}``. Critiques without
    remarks need no judgement, and those that cannot be read get none.

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024); the labels
        are the paper's, the words are reconstructed.
    """

    instruction: str = INSTRUCTION
    """What a meta-critic is told to write; it must ask for the list that ``read_unit_labels`` reads."""
    with_reference: bool = True
    """Whether it is told the true answer, where there is one."""

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise UserError("instruction is empty; say what the meta-critic is to write")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns a prompt for each critique with remarks.

        Raises:
            BadSampleError: The sample has no critiques, or does not say what they are about.
        """
        check_candidates(sample)
        about = solution_of(sample)
        asked = (self._asked(sample, index, candidate, about) for index, candidate in spoken_candidates(sample))
        return tuple(prompt for prompt in asked if prompt is not None)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Asks about the first critique with remarks; a sample without one stays as it is."""
        asked = self(sample) if sample.candidates else ()
        return asked[0] if asked else sample

    def _asked(self, sample: Sample, index: int, candidate: Candidate, about: Critique) -> Sample | None:
        units = read_units(candidate.text)
        if not units:
            return None
        reference = reference_answer(sample.answer) if self.with_reference else None
        text = meta_critique_request(
            about.question, about.response, units, instruction=self.instruction, reference=reference
        )
        # What is judged here is a critique: whether it is right is told remark by remark.
        judged = Critique(about.question, candidate.text)
        return made_of(sample, index, asked_about(sample, text), critique=judged, answer=None)
