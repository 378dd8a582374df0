"""Judges that solve a problem themselves before they judge, now and then: ProJudge's Dynamic Dual-Phase."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lit_vlm.functional.next_turn import CANDIDATE, PARENT
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Message, Sample, TextPart, assistant_message
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.parsing.judge_prompts import judge_request, write_numbered_steps
from lit_vlm.parsing.step_judgements import SOLUTION, SOLUTION_END, write_step_judgements
from lit_vlm.synthesis.completions import origin_of

DIRECT = "Judge each step of the solution. Answer with a JSON list."
SOLVE_FIRST = "Solve the problem yourself in <solution></solution>, then judge each step. Answer with a JSON list."

Phase = Literal["direct", "solve_first"]


@dataclass(frozen=True)
class DualPhase(SampleTransform):
    """Makes judging questions of labelled solutions, in one of two forms that is drawn anew in each epoch.

    - ``direct``: the completion is the JSON list of labels;
    - ``solve_first``: the completion is the right solution in ``<solution>…</solution>``, then the list.

    A sample with a ``critique`` is one judging question. Of one with candidates, each candidate with a critique is one,
    whose id is ``<id>#<place of the candidate>``; the others are left out. A sample with neither is to be solved and
    stays as it is, so that judging and solving can be mixed. The draw depends on the judging
    question's id and the epoch alone, so that a run that resumes goes on with the same forms, on any number of ranks.

    Source:
        Ai et al., "ProJudge: A Multi-Modal Multi-Discipline Benchmark and Instruction-Tuning Dataset for MLLM-based
        Process Judges" (2025), reconstructed: the probability, the words and the tags are ours.
    """

    probability: float = 0.5
    """Of ``solve_first``, in [0, 1]."""
    direct: str = DIRECT
    """What is asked for in the first form."""
    solve_first: str = SOLVE_FIRST
    """What is asked for in the second."""
    evaluated: Phase = "direct"
    """The form in validation and test."""
    solution: str = "solution"
    """Name in ``meta.extra`` of the right solution's text, of samples with a ``critique``; of others it is the last
    assistant turn."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"probability is {self.probability}; give the share of solve_first, from 0 to 1")
        if self.evaluated not in ("direct", "solve_first"):
            raise UserError(f"evaluated is {self.evaluated!r}; give direct or solve_first")
        for name, words in (("direct", self.direct), ("solve_first", self.solve_first)):
            if not words.strip():
                raise UserError(f"{name} is empty; give what the judge is asked for")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns the judging questions in their longer form: ``solve_first``, unless that is never drawn.

        Raises:
            BadSampleError: No candidate has a critique, one labels no steps, or there is no right solution where it is
                needed.
        """
        phase: Phase = "solve_first" if self.probability else "direct"
        return self._questions(sample, lambda _: phase)

    def in_epoch(self, sample: Sample, epoch: int) -> tuple[Sample, ...]:
        """Returns the judging questions, each in the form that is drawn for it in this epoch.

        Raises:
            BadSampleError: As of a call.
        """
        return self._questions(sample, lambda question_id: self.phase(question_id, epoch))

    def for_evaluation(self, sample: Sample) -> Sample:
        """Returns a sample with a critique as a judging question, and any other as it is, to be solved.

        Raises:
            BadSampleError: As of a call.
        """
        if sample.critique is None:
            return sample
        return self._question(sample, sample.critique, self._own_solution(sample), self.evaluated)

    def phase(self, question_id: str, epoch: int) -> Phase:
        """Draws the form of a judging question in an epoch."""
        drawn = random_stream("dual_phase", question_id, epoch).random()
        return "solve_first" if drawn < self.probability else "direct"

    def _questions(self, sample: Sample, phase_of: Callable[[str], Phase]) -> tuple[Sample, ...]:
        if sample.critique is not None:
            phase = phase_of(sample.id)
            return (self._question(sample, sample.critique, self._own_solution(sample), phase),)
        if not sample.candidates:
            return (sample,)
        judged = [(place, one.critique) for place, one in enumerate(sample.candidates) if one.critique is not None]
        if not judged:
            raise BadSampleError(origin_of(sample), "has candidates, but none with a critique; give labelled solutions")
        turn = sample.messages[-1]
        solution = turn.text if turn.role == "assistant" else ""
        made = []
        for place, critique in judged:
            extra = {**sample.meta.extra, PARENT: sample.id, CANDIDATE: place}
            question = replace(sample, id=f"{sample.id}#{place}", meta=replace(sample.meta, extra=extra))
            made.append(self._question(question, critique, solution, phase_of(question.id)))
        return tuple(made)

    def _own_solution(self, sample: Sample) -> str:
        return str(sample.meta.extra.get(self.solution, ""))

    def _question(self, sample: Sample, critique: Critique, solution: str, phase: Phase) -> Sample:
        if not critique.steps:
            raise BadSampleError(origin_of(sample), "has a critique that labels no steps; give one label a step")
        labels = write_step_judgements(critique.steps)
        if phase == "solve_first":
            if not solution.strip():
                raise BadSampleError(
                    origin_of(sample),
                    f"has no right solution to begin with; give one in meta.extra[{self.solution!r}] or as the last "
                    "assistant turn, or set probability to 0",
                )
            labels = f"{SOLUTION}{solution.strip()}{SOLUTION_END}\n{labels}"
        asked = self.direct if phase == "direct" else self.solve_first
        return replace(
            sample,
            messages=(*_prompt(sample, critique, asked), assistant_message(labels)),
            answer=None,
            candidates=(),
            preferences=(),
            critique=critique,
        )


def _prompt(sample: Sample, critique: Critique, asked: str) -> Sequence[Message]:
    """Shows the media of the prompt, then the problem with its steps; a system turn stays before them."""
    steps = tuple(step.text.strip() for step in critique.steps)
    text = judge_request(critique.question, write_numbered_steps(steps) if all(steps) else critique.response, asked)
    system = [message for message in sample.prompt if message.role == "system"]
    media = [
        part
        for message in sample.prompt
        if message.role == "user"
        for part in message.content
        if not isinstance(part, TextPart)
    ]
    return [*system, Message("user", (*media, TextPart(text)))]
