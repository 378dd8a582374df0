"""Imitates critiques."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lit_vlm.interfaces.critiques import Critique, CritiqueVerdict
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Message, Sample, assistant_message
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.parsing.critique_verdict import is_complete, read_verdict
from lit_vlm.parsing.judge_prompts import RUBRIC, STEP_RUBRIC, judge_request, write_numbered_steps
from lit_vlm.parsing.step_judgements import read_step_judgements, write_step_judgements
from lit_vlm.synthesis.completions import first_of_each, imitation_sample, origin_of, trained
from lit_vlm.synthesis.critique_prompts import true_verdict
from lit_vlm.synthesis.judged_solution import asked_about, made_of, question_text


@dataclass(frozen=True)
class CritiqueTargets(SampleTransform):
    """Makes supervised samples whose target is a critique; nothing else of them is learnt.

    - A judging question (``Sample.critique``) with candidates, as a critic's ledger gives: each candidate is a critique
      to imitate, behind the question's own prompt.
    - A judging question without candidates: its own critique is imitated.
    - Any other sample: each critique of its candidates (``Candidate.critique``) is imitated, behind the question
      whether this solution is right; candidates without a critique are left out. The ids are ``<id>#<place>``.

    Critiques that were cut off are left out, and so are repeats of solution and critique.

    Source:
        Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique Fine-Tuning on One Problem"
        (2025), ``prompts/generate_teacher_critique.py`` (confirmed-in-code). The filter by the verifier is ours.
    """

    rubric: str = RUBRIC
    """How to judge, where the question is made here; ``step_rubric`` for critiques that only label steps."""
    step_rubric: str = STEP_RUBRIC
    """How to judge single steps."""
    verdict_agreement: bool = False
    """Whether only critiques are kept whose verdict is the verifier's, where that is known."""

    def __post_init__(self) -> None:
        for name in ("rubric", "step_rubric"):
            if not getattr(self, name).strip():
                raise UserError(f"{name} is empty; say how to judge")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns one sample for each critique that is kept; none where none is.

        Raises:
            BadSampleError: Nothing of the sample is judged, or a judging question holds no solution.
        """
        if sample.critique is None:
            made = list(self._of_candidates(sample))
        elif not sample.critique.response.strip():
            raise BadSampleError(origin_of(sample), "has a critique without the solution that it is about; give both")
        else:
            made = list(self._of_question(sample, sample.critique))
        kept = first_of_each(made, key=lambda one: one.critique and (one.critique.response, one.critique.text))
        return tuple(replace(one, answer=None) for one in kept)

    def _of_question(self, sample: Sample, truth: Critique) -> Iterator[Sample]:
        if not sample.candidates:
            text = _written(truth)
            if self._is_kept(text, truth, None):
                messages = (*_untrained(sample.prompt), assistant_message(text))
                yield replace(sample, messages=messages, preferences=())
        for index, candidate in enumerate(sample.candidates):
            if self._is_kept(candidate.text, None, truth.verdict):
                steps = read_step_judgements(candidate.text) or ()
                said = replace(truth, text=candidate.text, verdict=read_verdict(candidate.text), steps=steps)
                yield replace(imitation_sample(sample, index, trained(candidate.messages)), critique=said)

    def _of_candidates(self, sample: Sample) -> Iterator[Sample]:
        judged = [(place, one, one.critique) for place, one in enumerate(sample.candidates) if one.critique is not None]
        if not judged:
            raise BadSampleError(
                origin_of(sample), "has no critique, nor a candidate with one; name the critic's ledger in data.attach"
            )
        question = question_text(sample)
        for index, candidate, critique in judged:
            text = _written(critique)
            if not self._is_kept(text, critique, true_verdict(candidate)):
                continue
            request = judge_request(question, candidate.text, self.rubric)
            if not critique.text:
                shown = write_numbered_steps(tuple(step.text for step in critique.steps))
                request = judge_request(question, shown, self.step_rubric)
            messages = (*asked_about(sample, request), assistant_message(text))
            said = replace(critique, question=question, response=candidate.text, text=text)
            yield made_of(sample, index, messages, critique=said)

    def _is_kept(self, text: str, critique: Critique | None, truth: CritiqueVerdict | None) -> bool:
        steps = critique.steps if critique is not None else read_step_judgements(text)
        has_grades = bool(steps) or (critique is not None and (bool(critique.units) or critique.score is not None))
        if not text.strip() or not (has_grades or is_complete(text)):
            return False
        verdict = read_verdict(text)
        if verdict is None and critique is not None:
            verdict = critique.verdict
        if verdict is None and steps:
            verdict = "right" if all(step.correct for step in steps) else "wrong"
        return not self.verdict_agreement or truth is None or verdict == truth


def _written(critique: Critique) -> str:
    return critique.text or (write_step_judgements(critique.steps) if critique.steps else "")


def _untrained(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(replace(message, train=False) for message in messages)
