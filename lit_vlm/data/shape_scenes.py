"""Generates questions about drawn scenes of coloured shapes: count, find, compare, relate, locate, describe."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_vlm.data.embedded import EmbeddedDataModule, check_choice
from lit_vlm.data.levelled_tasks import LevelledTasks
from lit_vlm.data.scene_composition import LEVELS, Layout, Level
from lit_vlm.data.scene_drawing import SceneObject, draw_scene, place_objects
from lit_vlm.data.scene_misreadings import misread
from lit_vlm.data.scene_questions import QUESTIONS, Draft, UnanswerableError
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import (
    MediaRef,
    Sample,
    Split,
    assistant_message,
    user_message,
)
from lit_vlm.interfaces.roles import SampleEncoder

TASKS = tuple(QUESTIONS)
# Ten buckets of scenes: eight for training, one each for validation and test.
_SPLIT_OF_BUCKET: tuple[Split, ...] = (*("train",) * 8, "validation", "test")


@dataclass(frozen=True)
class ShapeSceneGenerator(LevelledTasks):
    """Draws scenes of coloured shapes and asks about them; every scene belongs to one split, whatever the seed."""

    seed: int = 0
    """Names the data set: another seed gives other samples, but never moves a scene to another split."""
    tasks: tuple[str, ...] = TASKS
    """Tasks to ask, drawn uniformly."""
    levels: tuple[int, ...] = (1, 2, 3)
    """Difficulties 1 to 5, drawn uniformly: more objects, colours and shapes; from 3 on overlap, lines and noise."""
    image_size: int = 64
    """Side of the picture in pixels, at least 32."""

    name = "shape_scenes"

    def __post_init__(self) -> None:
        check_choice("tasks", self.tasks, TASKS)
        check_choice("levels", self.levels, tuple(LEVELS))
        if self.image_size < 32:
            raise UserError(f"image_size is {self.image_size}; shapes need at least 32 pixels")

    def sample(self, split: Split, index: int) -> Sample:
        """Builds one scene of the split and its question.

        Raises:
            UserError: There is no such split.
        """
        level, draft, objects, stream = self._placed(split, index)
        image = draw_scene(objects, self.image_size, level.clutter, stream)
        thought, words, answer = draft.solve(objects)
        outline = self.outline(split, index)
        return replace(
            outline,
            messages=(
                user_message(draft.question, images=1),
                assistant_message(f"<think>{thought}</think><answer>{words}</answer>"),
            ),
            images=(MediaRef(pil=image, size=image.size),),
            answer=answer,
            meta=replace(outline.meta, extra={"objects": [_record(item) for item in objects]}),
        )

    def misreadings(self, split: Split, index: int, stream: random.Random) -> Iterator[tuple[str, str]]:
        """Yields without end what somebody would think and answer who misreads the scene.

        One thing is misread in the first readings, more and more later, for questions that a single slip does not
        decide. The answer may still be right.
        """
        level, draft, objects, _ = self._placed(split, index)
        for reading in itertools.count():
            seen = objects
            for _ in range(1 + reading // 12):
                seen = misread(seen, level, self.image_size, stream)
            try:
                thought, words, _ = draft.solve(seen)
            except UnanswerableError:  # what is asked about was overlooked or taken for something else
                continue
            yield thought, words

    def _placed(self, split: Split, index: int) -> tuple[Level, Draft, tuple[SceneObject, ...], random.Random]:
        """Draws the level, the question and the objects of an example, and returns the stream that draws the rest."""
        task, difficulty, stream = self._drawn(split, index)
        level = LEVELS[difficulty]
        # Decides the answer once: the search for a scene of the split must not favour answers easy to find.
        coin = stream.random()
        draft = QUESTIONS[task](level, coin, stream)
        while split_of(draft.layout) != split:
            draft = QUESTIONS[task](level, coin, stream)
        return level, draft, place_objects(draft.layout, self.image_size, level.clutter.overlap, stream), stream


def split_of(layout: Layout) -> Split:
    """Tells which split owns a scene, by a hash of what stands in which cell.

    Offsets within a cell, clutter and the question do not count, so no split sees a near copy of another's scene.
    """
    bucket = stream_seed("shape_scenes", *(f"{cell} {looks.phrase}" for cell, looks in layout)) % len(_SPLIT_OF_BUCKET)
    return _SPLIT_OF_BUCKET[bucket]


def _record(item: SceneObject) -> dict[str, object]:
    return {
        "size": item.looks.size,
        "colour": item.looks.colour,
        "shape": item.looks.shape,
        "row": item.row,
        "column": item.column,
        "box": list(item.box),
        "centre": list(item.centre),
    }


class ShapeScenes(EmbeddedDataModule):
    """Serves questions about drawn scenes; no scene of the test split is ever seen in training.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        tasks: Tasks to ask, drawn uniformly.
        levels: Difficulties 1 to 5, drawn uniformly.
        image_size: Side of the scene in pixels.
        seed: Names the data set.
        options: Sizes, batch sizes and workers, see ``EmbeddedDataModule``.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        tasks: Sequence[str] = TASKS,
        levels: Sequence[int] = (1, 2, 3),
        image_size: int = 64,
        seed: int = 0,
        **options: Any,
    ) -> None:
        generator = ShapeSceneGenerator(seed, tuple(tasks), tuple(levels), image_size)
        super().__init__([generator], encoder, **options)
