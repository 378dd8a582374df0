"""Questions about one place of a scene, with attempts at looking there and answering."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lit_vlm.data.embedded import EmbeddedDataModule
from lit_vlm.data.focus_scenes import FocusSceneGenerator, judge_by_truth
from lit_vlm.data.own_completions import OwnCompletions, describe_generator, read_completions
from lit_vlm.data.scripted_attempts import scripted_attempts
from lit_vlm.functional.focus_traces import Trace, with_traces
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, Split
from lit_vlm.interfaces.roles import SampleEncoder, TaskGenerator

MAKER = "python -m lit_vlm.command_line.focus_attempts"
SCRIPTED_ATTEMPTS = 3
SCRIPTED_SIZES: dict[Split, int] = {"train": 2048, "validation": 256}


class FocusTraceTasks(TaskGenerator):
    """Adds traces to the samples of a generator, scored by the truth (``judge_by_truth``).

    Args:
        generator: Makes the scenes.
        attempts: Of each question the boxes and answers by turns, in the order they were written; None for scripted
            attempts. Test questions get none.
    """

    def __init__(self, generator: FocusSceneGenerator, attempts: OwnCompletions | None) -> None:
        self.generator = generator
        self.attempts = attempts
        self.name = generator.name

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks asked."""
        return self.generator.tasks

    def sample(self, split: Split, index: int) -> Sample:
        """Builds example ``index`` of a split, with its traces as candidates."""
        sample = self.generator.sample(split, index)
        if split == "test":
            return sample
        if self.attempts is None:
            stream = random_stream(self.generator.seed, "scripted attempts", split, index)
            traces = scripted_attempts(sample, SCRIPTED_ATTEMPTS, stream)
        else:
            traces = traces_of(self.attempts.texts[split][index])
        return with_traces(sample, traces, judge_by_truth, coords="pixel", crop_size=self.generator.crop_size)

    def outline(self, split: Split, index: int) -> Sample:
        """Tells the id, task and difficulty of example ``index``."""
        return self.generator.outline(split, index)


def traces_of(texts: Sequence[str]) -> list[Trace]:
    """Pairs boxes and answers that stand by turns.

    Example:
        >>> traces_of(["(0, 0, 8, 8)", "7", "(8, 8, 16, 16)", "1"])
        [('(0, 0, 8, 8)', '7'), ('(8, 8, 16, 16)', '1')]
    """
    return list(zip(texts[::2], texts[1::2], strict=True))


class FocusCandidates(EmbeddedDataModule):
    """Serves the questions of ``FocusScenes`` with attempts at them: scripted ones, or those of a model.

    Training and validation questions have attempts as candidates, two of each (a good one and a bad one); give
    ``transform: FocusBoxPairs`` to make pairs of them. Test questions have none. Scripted attempts are written by rule
    from the truth, so that nothing needs to be made first; VisRL's own way is to learn from what the model itself does,
    for which ``python -m lit_vlm.command_line.focus_attempts`` writes a file.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        tasks: How questions name the shape that is meant, ``looks``, ``cell`` or ``side``, drawn uniformly.
        train_size: Training questions that are read; None for as many as have attempts, of scripted ones 2048.
        validation_size: Validation questions; None for as many as have attempts, of scripted ones 256.
        candidates_file: Attempts of a model; None for scripted ones.
        system_prompt: Put before every sample; None adds nothing.
        options: Batch sizes, workers, ``transform`` and the rest, see ``EmbeddedDataModule``.

    Raises:
        UserError: A size exceeds the questions that have attempts, or the file is of other questions.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        tasks: Sequence[str] = ("looks",),
        train_size: int | None = None,
        validation_size: int | None = None,
        candidates_file: Path | None = None,
        system_prompt: str | None = None,
        **options: Any,
    ) -> None:
        generator = FocusSceneGenerator(tasks=tuple(tasks))
        attempts = None if candidates_file is None else _attempts(candidates_file, generator)
        given: dict[Split, int | None] = {"train": train_size, "validation": validation_size}
        sizes = {}
        for split, size in given.items():
            most = None if attempts is None else attempts.size(split)
            if most is not None and (size or 0) > most:
                raise UserError(
                    f"data.{split}_size is {size}, but {candidates_file} holds attempts at {most} questions of this "
                    f"split; lower it, or make more with {MAKER}"
                )
            sizes[split] = size if size is not None else SCRIPTED_SIZES[split] if most is None else most
        super().__init__(
            [FocusTraceTasks(generator, attempts)],
            encoder,
            train_size=sizes["train"],
            validation_size=sizes["validation"],
            system_prompt=system_prompt,
            **options,
        )


@cache
def _attempts(path: Path, generator: FocusSceneGenerator) -> OwnCompletions:
    """Reads attempts and checks that they are about these questions."""
    attempts = read_completions(path)
    if dict(attempts.origin.generator) != describe_generator(generator):
        raise UserError(
            f"{path} holds completions of {dict(attempts.origin.generator)}, where attempts at {generator.name} with "
            f"tasks {', '.join(generator.tasks)} are wanted; make it anew with {MAKER}"
        )
    for split, of_split in attempts.texts.items():
        for index, texts in enumerate(of_split):
            if len(texts) % 2:
                raise UserError(
                    f"{path}: question {index} of {split} has {len(texts)} texts, where boxes and answers stand by "
                    f"turns; make it anew with {MAKER}"
                )
    return attempts
