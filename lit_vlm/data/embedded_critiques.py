"""Embedded questions about solutions of embedded questions: is each step right, and if not, what should stand there?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from lit_vlm.data.derivation_checks import check_derivation
from lit_vlm.data.derivation_slips import slips
from lit_vlm.data.embedded import EmbeddedDataModule
from lit_vlm.data.embedded_candidates import CandidateTasks, TasksFrom, candidate_tasks
from lit_vlm.data.injected_errors import MOST_READINGS, inject_errors
from lit_vlm.functional.next_turn import CANDIDATE, PARENT
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.critiques import Critique, StepLabel
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, Split, assistant_message, user_message
from lit_vlm.interfaces.roles import SampleEncoder, TaskGenerator
from lit_vlm.parsing.critique_verdict import conclude
from lit_vlm.parsing.judge_prompts import judge_request, write_numbered_steps
from lit_vlm.parsing.step_judgements import write_step_judgements

CritiqueForm = Literal["text", "json"]
JUDGE = "judge"
"""Task of the questions about solutions."""
SOLUTION = "solution"
"""Entry of ``meta.extra`` with the right solution."""
RUBRICS: dict[CritiqueForm, str] = {"text": "is the solution right?", "json": "which are the right steps?"}
"""How the judge is asked, in few tokens of the bundled model."""


@dataclass(frozen=True)
class JudgedSolution:
    """One solution of a question, and what is true of its steps."""

    text: str
    steps: tuple[StepLabel, ...]

    @property
    def error_type(self) -> str | None:
        """Kind of its first error; None where it is right, or where that is not known."""
        return next((step.error_type for step in self.steps if not step.correct), None)

    @property
    def is_right(self) -> bool:
        """Whether every step is right."""
        return all(step.correct for step in self.steps)


class CritiqueTasks(TaskGenerator):
    """Asks about solutions of a generator's questions, and some of the questions themselves.

    Solutions are the reference, the completions of ``candidates`` and errors made from the truth. Left out are those
    that ``check_derivation`` cannot read, and those that come to the true answer by a wrong step: the verdict on these
    is a matter of taste.

    Args:
        candidates: Makes questions and has a model's completions of them.
        train_problems: Indices of the training questions that are asked about.
        solutions: Solutions that a question has at least, where its picture can be misread in as many ways.
        solving_share: Share of the training samples that are to be solved.
        form: How critiques are written, see ``EmbeddedCritiques``.
    """

    def __init__(
        self,
        candidates: CandidateTasks,
        train_problems: Sequence[int],
        solutions: int = 1,
        solving_share: float = 0.0,
        form: CritiqueForm = "text",
    ) -> None:
        self.candidates = candidates
        self.train_problems = train_problems
        self.solutions = solutions
        self.solving_share = solving_share
        self.form: CritiqueForm = form
        self.name = f"{candidates.name}_critiques"
        self._judged: dict[tuple[Split, int], tuple[JudgedSolution, ...]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Judging, then the tasks that are solved."""
        return (JUDGE, *self.candidates.tasks)

    def sample(self, split: Split, index: int) -> Sample:
        """Builds example ``index`` of a split.

        In training the question and whether to judge or to solve are drawn; elsewhere questions come in order, each
        judged and then solved. Half of what is judged is right, and of the wrong solutions of a question each kind of
        first error is as likely as the others.
        """
        stream = random_stream("embedded_critiques", self.name, split, index)
        if split == "train":
            problem, judges = stream.choice(self.train_problems), stream.random() >= self.solving_share
        else:
            problem, judges = index // 2, index % 2 == 0
        sample = replace(self.candidates.generator.sample(split, problem), candidates=())
        if not judges:
            return sample
        judged = self.judged_solutions(split, problem)
        by_kind: dict[str | None, list[int]] = {}
        for place, solution in enumerate(judged):
            if not solution.is_right:
                by_kind.setdefault(solution.error_type, []).append(place)
        if stream.random() < 0.5 or not by_kind:
            place = stream.choice([place for place, solution in enumerate(judged) if solution.is_right])
        else:
            place = stream.choice(by_kind[stream.choice(list(by_kind))])
        return judging_sample(sample, place, judged[place], self.form)

    def judged_solutions(self, split: Split, problem: int) -> tuple[JudgedSolution, ...]:
        """Returns the distinct solutions of a question, the reference first."""
        if (split, problem) not in self._judged:
            self._judged[split, problem] = self._solutions(split, problem)
        return self._judged[split, problem]

    def _solutions(self, split: Split, problem: int) -> tuple[JudgedSolution, ...]:
        generator = self.candidates.generator
        sample = generator.sample(split, problem)
        stream = random_stream("embedded_critiques", "errors", sample.id)
        own = self.candidates.completions.texts.get(split, ())
        texts = [sample.messages[-1].text, *(own[problem] if problem < len(own) else ())]
        texts += inject_errors(generator, sample, split, problem).values()
        texts += slips(sample)
        found = {text: judged for text in texts if (judged := _judged(sample, text)) is not None}
        readings = generator.misreadings(split, problem, stream)
        for thought, answer in islice(readings, MOST_READINGS if len(found) < self.solutions else 0):
            text = f"<think>{thought}</think><answer>{answer}</answer>"
            judged = _judged(sample, text)
            if judged is not None:
                found.setdefault(text, judged)
            if len(found) >= self.solutions:
                break
        return tuple(found.values())


def _judged(sample: Sample, text: str) -> JudgedSolution | None:
    steps = check_derivation(sample, text)
    judged = None if steps is None else JudgedSolution(text, steps)
    # The last step is the answer: a right one after a wrong step was come to by luck.
    return judged if judged is not None and judged.is_right == judged.steps[-1].correct else None


def judging_sample(sample: Sample, place: int, solution: JudgedSolution, form: CritiqueForm) -> Sample:
    """Makes the question about a solution of an embedded question, answered by the critique that is true of it.

    Args:
        sample: The question, with its reference completion.
        place: The solution's number, which goes into the id.
        solution: The solution.
        form: How the critique is written.
    """
    shown = solution.text
    if form == "json":
        shown = write_numbered_steps(tuple(step.text for step in solution.steps))
    text = critique_text(solution.steps) if form == "text" else write_step_judgements(solution.steps)
    critique = Critique(
        sample.question, solution.text, text, "right" if solution.is_right else "wrong", steps=solution.steps
    )
    extra = {**sample.meta.extra, PARENT: sample.id, CANDIDATE: place, SOLUTION: sample.messages[-1].text}
    request = judge_request(sample.question, shown, RUBRICS[form])
    return Sample(
        f"{sample.id}#{place}",
        (user_message(request, images=len(sample.images)), assistant_message(text)),
        sample.images,
        meta=replace(sample.meta, category=JUDGE, extra=extra),
        critique=critique,
    )


def critique_text(steps: Sequence[StepLabel]) -> str:
    """Writes labels as a critique in the words of the embedded tasks: what should stand at each step, then its label.

    Example:
        >>> critique_text([StepLabel("i see 2 3", True), StepLabel("2 + 3 = 6", False, None, "2 + 3 = 5")])
        'i see 2 3, so step 1 is right. 2 + 3 = 5, so step 2 is wrong. Conclusion: wrong [END]'
    """
    said = [
        f"{step.text}, so step {number} is right."
        if step.correct
        else f"{step.explanation}, so step {number} is wrong."
        for number, step in enumerate(steps, 1)
    ]
    return " ".join([*said, conclude("right" if all(step.correct for step in steps) else "wrong")])


class EmbeddedCritiques(EmbeddedDataModule):
    """Serves embedded questions about solutions, each with the critique that is true of it, and some to be solved.

    Solutions are completions of the bundled model, reference completions and injected errors; rules that know the
    picture judge them, see ``check_derivation``. Validation and test ask each question twice, once about a solution of
    it (task ``judge``), once to be solved.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        tasks_from: ``digits`` for questions about handwritten digits, ``scenes`` for those about coloured shapes.
        problem: Index of the one training question that is asked about, from 0, as in One-Shot CFT; None for all.
        solutions: Solutions that each question has at least, if its picture can be misread in as many ways.
        solving_share: Share of the training samples that are plain questions to be solved, from 0 to below 1; with
            ``problem`` that one question.
        form: ``text``: the critique says of each step what should stand there and whether it is right, and concludes;
            ``json``: a list of labels, as of ProJudge, of a solution that is shown step by step.
        train_size: Training samples of an epoch; solutions are drawn for them.
        validation_size: Validation samples, half of them judging questions.
        test_size: Test samples, likewise.
        candidates_file: Completions of another model, see ``EmbeddedCandidates``.
        system_prompt: Put before every sample; None adds nothing.
        options: Batch sizes, workers, ``transform`` and the rest, see ``EmbeddedDataModule``.

    Source:
        Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique Fine-Tuning on One Problem"
        (2025): one problem, many solutions, a critique of each. Critiques by rules instead of teachers are ours.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        tasks_from: TasksFrom = "digits",
        problem: int | None = None,
        solutions: int = 1,
        solving_share: float = 0.0,
        form: CritiqueForm = "text",
        train_size: int = 8192,
        validation_size: int = 256,
        test_size: int = 512,
        candidates_file: Path | None = None,
        system_prompt: str | None = None,
        **options: Any,
    ) -> None:
        source = candidate_tasks(tasks_from, candidates_file=candidates_file)
        problems = source.completions.size("train")
        if problem is not None and not 0 <= problem < problems:
            raise UserError(f"data.problem is {problem}; give the index of a training question, 0 to {problems - 1}")
        if not 0 <= solving_share < 1:
            raise UserError(f"data.solving_share is {solving_share}; give a share from 0 to below 1")
        if not 1 <= solutions <= MOST_READINGS:
            raise UserError(f"data.solutions is {solutions}; give 1 to {MOST_READINGS}")
        if form not in get_args(CritiqueForm):
            raise UserError(f"data.form is {form!r}; give text or json")
        chosen = range(problems) if problem is None else (problem,)
        super().__init__(
            [CritiqueTasks(source, chosen, solutions, solving_share, form)],
            encoder,
            train_size=train_size,
            validation_size=validation_size,
            test_size=test_size,
            system_prompt=system_prompt,
            **options,
        )
