from dataclasses import dataclass

import pytest

from lit_vlm.data.levelled_tasks import SPLITS, LevelledTasks
from lit_vlm.interfaces.errors import UserError


@dataclass(frozen=True)
class Plain(LevelledTasks):
    """Examples of two tasks and three levels."""

    seed: int = 0
    tasks: tuple[str, ...] = ("sum", "count")
    levels: tuple[int, ...] = (1, 2, 3)

    name = "plain"

    def sample(self, split, index):
        return self.outline(split, index)


def test_outlines_name_a_task_and_a_level_of_those_there_are():
    outlines = [Plain().outline(split, index) for split in SPLITS for index in range(50)]
    assert {(item.meta.category, item.meta.difficulty) for item in outlines} == {
        (task, level) for task in ("sum", "count") for level in (1, 2, 3)
    }
    assert len({item.id for item in outlines}) == 150
    assert outlines[0].id == "plain/train/0/0"
    assert all(item.messages == () for item in outlines)


def test_an_outline_is_a_pure_function_of_seed_split_and_index():
    assert Plain().outline("test", 3) == Plain().outline("test", 3)
    kinds = [[Plain(seed).outline("train", index).meta.category for index in range(40)] for seed in (0, 1)]
    assert kinds[0] != kinds[1]


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="unknown split 'dev'; there are train, validation, test"):
        Plain().outline("dev", 0)
