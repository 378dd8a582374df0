"""Embedded questions with several answers each: the bundled model's own, right and wrong, and injected errors."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.embedded import EmbeddedDataModule, check_choice
from lit_vlm.data.embedded_grades import grade
from lit_vlm.data.injected_errors import ERROR_KINDS, ErrorKind, inject_errors
from lit_vlm.data.own_completions import BUNDLED_FOLDER, OwnCompletions, describe_generator, read_completions
from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import INJECTED_ERROR, Candidate, Sample, Split, assistant_message
from lit_vlm.interfaces.roles import SampleEncoder, TaskGenerator
from lit_vlm.parsing.answers import check_answer

TasksFrom = Literal["digits", "scenes"]
_GENERATORS: dict[str, type[DigitsReasoningGenerator] | type[ShapeSceneGenerator]] = {
    "digits": DigitsReasoningGenerator,
    "scenes": ShapeSceneGenerator,
}


class CandidateTasks(TaskGenerator):
    """Adds candidates to the samples of a generator.

    Each candidate has the scores ``correct`` (1 or 0) and those of ``embedded_grades``. The kinds of the injected
    errors stand in ``meta.extra["injected_errors"]``, in the order of these candidates, which come last.

    Args:
        generator: Makes questions, pictures and reference completions.
        completions: A model's own completions, by split and index; a split without any is served without candidates.
        errors: Kinds of errors to inject, at most one of each kind a question.
    """

    def __init__(
        self,
        generator: DigitsReasoningGenerator | ShapeSceneGenerator,
        completions: OwnCompletions,
        errors: Sequence[ErrorKind] = ERROR_KINDS,
    ) -> None:
        self.generator = generator
        self.completions = completions
        self.errors = tuple(errors)
        self.name = generator.name
        # Judged once: epochs, and the pass that counts what a transform makes of each sample, ask for them again.
        self._candidates: dict[tuple[Split, int], tuple[tuple[Candidate, ...], tuple[ErrorKind, ...]]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks asked, in the order they are reported."""
        return self.generator.tasks

    def sample(self, split: Split, index: int) -> Sample:
        """Builds example ``index`` of a split, with its candidates."""
        sample = self.generator.sample(split, index)
        if not self.completions.size(split):
            return sample
        if (split, index) not in self._candidates:
            self._candidates[split, index] = self._judged(sample, split, index)
        candidates, kinds = self._candidates[split, index]
        extra = {**sample.meta.extra, "injected_errors": kinds}
        return replace(sample, candidates=candidates, meta=replace(sample.meta, extra=extra))

    def _judged(self, sample: Sample, split: Split, index: int) -> tuple[tuple[Candidate, ...], tuple[ErrorKind, ...]]:
        injected = inject_errors(self.generator, sample, split, index, self.errors)
        own, model = self.completions.texts[split][index], self.completions.origin.model
        by_text = {text: judged(sample, text, model) for text in own}  # many are sampled more than once
        errors = (judged(sample, text, INJECTED_ERROR) for text in injected.values())
        return (*(by_text[text] for text in own), *errors), tuple(injected)

    def outline(self, split: Split, index: int) -> Sample:
        """Tells the id, task and difficulty of example ``index``."""
        return self.generator.outline(split, index)


def judged(sample: Sample, text: str, model: str) -> Candidate:
    """Makes a candidate of a completion, with its scores."""
    if sample.answer is None:
        raise ValueError(f"{sample.id} has no answer to judge completions by")
    verdict = check_answer(text, sample.answer)
    grades = grade(text, verdict, sample.messages[-1].text, sample.answer)
    return Candidate((assistant_message(text),), {"correct": float(verdict.correct), **grades}, model)


class EmbeddedCandidates(EmbeddedDataModule):
    """Serves embedded questions with candidates: completions of the bundled model, and injected errors.

    Questions and pictures are those of ``DigitsReasoning`` and ``ShapeScenes`` at the same index; the last assistant
    turn is the reference completion. The test split has no candidates.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        tasks_from: ``digits`` for questions about handwritten digits, ``scenes`` for those about coloured shapes.
        train_size: Training questions of an epoch; None for as many as have completions.
        validation_size: Validation questions; None for as many as have completions.
        errors: Kinds of errors to inject, at most one of each kind a question: ``perception`` misreads the picture and
            reasons on, ``reasoning`` draws the wrong conclusion from what is read rightly.
        candidates_file: Completions of another model, as ``python -m lit_vlm.command_line.own_candidates`` writes them;
            None for those of the bundled model.
        system_prompt: Put before every sample; None adds nothing, as when the bundled completions were sampled: asked
            without the instruction that it was fine-tuned with, the bundled model errs in many ways.
        options: Batch sizes, workers, ``transform`` and the rest, see ``EmbeddedDataModule``.

    Raises:
        UserError: A size exceeds the questions that have completions, or the file is of other questions.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        tasks_from: TasksFrom = "digits",
        train_size: int | None = None,
        validation_size: int | None = None,
        errors: Sequence[ErrorKind] = ERROR_KINDS,
        candidates_file: Path | None = None,
        system_prompt: str | None = None,
        **options: Any,
    ) -> None:
        tasks = candidate_tasks(tasks_from, errors, candidates_file)
        completions = tasks.completions
        path = _file(tasks_from, candidates_file)
        sizes: dict[Split, int | None] = {"train": train_size, "validation": validation_size}
        for split, size in sizes.items():
            if (size or 0) > completions.size(split):
                raise UserError(
                    f"data.{split}_size is {size}, but {path} holds completions of {completions.size(split)} questions "
                    "of this split; lower it, or make more with python -m lit_vlm.command_line.own_candidates"
                )
        super().__init__(
            [tasks],
            encoder,
            train_size=completions.size("train") if train_size is None else train_size,
            validation_size=completions.size("validation") if validation_size is None else validation_size,
            system_prompt=system_prompt,
            **options,
        )


def candidate_tasks(
    tasks_from: TasksFrom, errors: Sequence[ErrorKind] = ERROR_KINDS, candidates_file: Path | None = None
) -> CandidateTasks:
    """Makes questions with candidates, as ``EmbeddedCandidates`` serves them.

    Raises:
        UserError: There are no such questions or errors, or the file is of other questions.
    """
    check_choice("data.tasks_from", [tasks_from], tuple(_GENERATORS))
    if errors:
        check_choice("data.errors", errors, ERROR_KINDS)
    generator = _GENERATORS[tasks_from]()
    path = _file(tasks_from, candidates_file)
    completions = _completions(path)
    if dict(completions.origin.generator) != describe_generator(generator):
        raise UserError(
            f"{path} holds completions of {dict(completions.origin.generator)}, but data.tasks_from is "
            f"{tasks_from}; make the file anew with python -m lit_vlm.command_line.own_candidates {tasks_from}"
        )
    return CandidateTasks(generator, completions, errors)


def _file(tasks_from: TasksFrom, candidates_file: Path | None) -> Path:
    return candidates_file or BUNDLED_FOLDER / f"{tasks_from}.jsonl.xz"


@cache
def _completions(path: Path) -> OwnCompletions:
    return read_completions(path)
