"""Embedded solutions with the critiques of several critics, as teachers would leave them in ledgers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_vlm.data.embedded import EmbeddedDataModule
from lit_vlm.data.embedded_candidates import TasksFrom, candidate_tasks
from lit_vlm.data.embedded_critiques import JUDGE, CritiqueTasks, JudgedSolution
from lit_vlm.data.scripted_critics import CRITICS, ScriptedCritic
from lit_vlm.data.scripted_revisions import revise, revision_score, suggested_changes
from lit_vlm.functional.next_turn import CANDIDATE, PARENT
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.critiques import Critique, CritiqueVerdict
from lit_vlm.interfaces.records import Candidate, Sample, Split, assistant_message, user_message
from lit_vlm.interfaces.roles import SampleEncoder, TaskGenerator
from lit_vlm.parsing.critique_units import REVISION, critique_request, write_critique
from lit_vlm.parsing.meta_critiques import write_unit_labels

SHORT_INSTRUCTION = "list the flaws."
"""How critics are asked, in few tokens of the bundled model."""
PASSED_OVER = (0.0, 0.1, 0.2)
"""Probability of each scripted reviser that it does not follow a remark."""


class CriticPanelTasks(TaskGenerator):
    """Asks for the flaws of solutions, and has what a panel of critics wrote as candidates.

    Each candidate is a critique, with the meta-critic's labels of its remarks (``Candidate.critique``) and the scores
    of the revisions that follow it (``revision/0`` and so on). The sample's own ``critique`` is what is true.

    Args:
        solutions: Has the judged solutions of questions.
        critics: Who criticise.
    """

    def __init__(self, solutions: CritiqueTasks, critics: tuple[ScriptedCritic, ...] = CRITICS) -> None:
        self.solutions = solutions
        self.critics = critics
        self.name = f"{solutions.candidates.name}_critics"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Judging alone."""
        return (JUDGE,)

    def sample(self, split: Split, index: int) -> Sample:
        """Builds example ``index`` of a split: a question, in training drawn, and a solution, half of them right."""
        stream = random_stream("critic_panel", self.name, split, index)
        problem = stream.choice(self.solutions.train_problems) if split == "train" else index
        question = self.solutions.candidates.generator.sample(split, problem)
        judged = self.solutions.judged_solutions(split, problem)
        wanted = stream.random() < 0.5
        places = [place for place, solution in enumerate(judged) if solution.is_right == wanted]
        place = stream.choice(places or range(len(judged)))
        solution = judged[place]
        request = critique_request(question.question, solution.text, instruction=SHORT_INSTRUCTION)
        verdict: CritiqueVerdict = "right" if solution.is_right else "wrong"
        return Sample(
            f"{question.id}#{place}",
            (user_message(request, images=len(question.images)),),
            question.images,
            meta=replace(
                question.meta,
                category=JUDGE,
                extra={**question.meta.extra, PARENT: question.id, CANDIDATE: place},
            ),
            candidates=tuple(self._candidate(critic, question, solution) for critic in self.critics),
            critique=Critique(question.question, solution.text, "", verdict, steps=solution.steps),
        )

    def _candidate(self, critic: ScriptedCritic, question: Sample, solution: JudgedSolution) -> Candidate:
        stream = random_stream("critic_panel", critic.name, question.id, solution.text)
        remarks = critic.remarks(solution.steps, stream)
        units = [unit for unit, _ in remarks]
        text = write_critique(units)
        scores = {}
        for reviser, passed_over in enumerate(PASSED_OVER):
            changes = suggested_changes(units, stream, passed_over)
            scores[f"{REVISION}{reviser}"] = revision_score(question, revise(question, solution.steps, changes))
        labels = write_unit_labels([label for _, label in remarks])
        return Candidate((assistant_message(text),), scores, critic.name, Critique(question.question, text, labels))


class CriticPanel(EmbeddedDataModule):
    """Serves embedded solutions with the critiques of three scripted critics, labelled and tried out by revisions.

    ``AggregateCritiques`` makes critiques to imitate of them, ``RevisionValidatedPairs`` pairs of critiques. What
    stands in the candidates is what a chain of ``predict`` runs of teachers leaves in ledgers, so that the same
    transforms serve both.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        tasks_from: ``digits`` for questions about handwritten digits, ``scenes`` for those about coloured shapes.
        train_size: Training samples of an epoch; questions and solutions are drawn for them.
        validation_size: Validation samples.
        test_size: Test samples.
        candidates_file: Completions of another model, see ``EmbeddedCandidates``.
        system_prompt: Put before every sample; None adds nothing.
        options: Batch sizes, workers, ``transform`` and the rest, see ``EmbeddedDataModule``.

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024): several
        critics, meta-critique, revisions (reconstructed). Critics by script in the place of models are ours.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        tasks_from: TasksFrom = "digits",
        train_size: int = 8192,
        validation_size: int = 128,
        test_size: int = 256,
        candidates_file: Path | None = None,
        system_prompt: str | None = None,
        **options: Any,
    ) -> None:
        source = candidate_tasks(tasks_from, candidates_file=candidates_file)
        solutions = CritiqueTasks(source, range(source.completions.size("train")))
        super().__init__(
            [CriticPanelTasks(solutions)],
            encoder,
            train_size=train_size,
            validation_size=validation_size,
            test_size=test_size,
            system_prompt=system_prompt,
            **options,
        )
