import pytest

from lit_vlm.data.focus_names import NAMES, by_cell, by_looks, by_side
from lit_vlm.data.scene_drawing import GRID, Description, place_objects
from lit_vlm.functional.random_streams import random_stream

RED, BLUE, GREEN = (Description("large", colour, "circle") for colour in ("red", "blue", "green"))


def scene(*layout):
    return place_objects(layout, 64, 0.0, random_stream(0, "focus names"))


def phrases(names) -> dict[str, str]:
    return {name: item.looks.colour for item, name in names}


def test_looks_and_cells_name_every_object() -> None:
    objects = scene((1, RED), (6, BLUE))
    assert phrases(by_looks(objects)) == {"red circle": "red", "blue circle": "blue"}
    assert phrases(by_cell(objects)) == {"object in row 1, column 2": "red", "object in row 2, column 3": "blue"}


def test_a_side_names_the_one_object_that_lies_furthest_there() -> None:
    # Columns 2, 3, 3 and rows 1, 2, 4: two are equally far to the right.
    objects = scene((1, RED), (6, BLUE), (14, GREEN))
    assert phrases(by_side(objects)) == {"left object": "red", "top object": "red", "bottom object": "green"}


def test_no_side_names_an_object_where_each_is_shared() -> None:
    assert by_side(scene((0, RED), (3, BLUE), (12, GREEN), (15, RED))) == []


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("first", range(0, GRID * GRID - 1, 4))
def test_two_objects_always_have_a_name_and_no_name_means_two(task, first) -> None:
    for second in range(first + 1, GRID * GRID):
        names = NAMES[task](scene((first, RED), (second, BLUE)))
        assert {item.looks.colour for item, _ in names} == {"red", "blue"}
        assert len({name for _, name in names}) == len(names)
