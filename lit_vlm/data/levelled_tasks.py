"""The base of generators that draw a task and a level for each example."""

from __future__ import annotations

import random

from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, SampleMeta, Split
from lit_vlm.interfaces.roles import TaskGenerator

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class LevelledTasks(TaskGenerator):
    """Knows the task and level of each example before anything is drawn."""

    seed: int
    """Names the data set."""
    levels: tuple[int, ...]
    """Difficulties, drawn uniformly."""

    def outline(self, split: Split, index: int) -> Sample:
        """Tells the id, task and difficulty of an example, without drawing a picture.

        Raises:
            UserError: There is no such split.
        """
        task, level, _ = self._drawn(split, index)
        meta = SampleMeta(source=self.name, split=split, category=task, difficulty=level)
        return Sample(f"{self.name}/{split}/{self.seed}/{index}", messages=(), meta=meta)

    def _drawn(self, split: Split, index: int) -> tuple[str, int, random.Random]:
        """Draws task and level, and returns with them the stream that draws the rest."""
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
        stream = random_stream(self.seed, self.name, split, index)
        return stream.choice(self.tasks), stream.choice(self.levels), stream
