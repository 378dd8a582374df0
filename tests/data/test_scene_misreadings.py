import random

import pytest

from lit_vlm.data.scene_composition import LEVELS, compose, spread
from lit_vlm.data.scene_drawing import GRID, place_objects
from lit_vlm.data.scene_misreadings import misread


def scene(level, stream):
    return place_objects(spread(compose(LEVELS[level], [], [], stream), stream), 64, 0.0, stream)


@pytest.mark.parametrize("level", LEVELS)
def test_one_thing_changes_and_the_scene_stays_a_scene(level):
    for seed in range(100):
        stream = random.Random(seed)
        objects = scene(level, stream)
        seen = misread(objects, LEVELS[level], 64, stream)
        assert 1 <= len(set(objects) ^ set(seen)) <= 2
        assert abs(len(seen) - len(objects)) <= 1
        cells = [item.cell for item in seen]
        assert cells == sorted(set(cells))
        for item in seen:
            assert item.looks.colour in LEVELS[level].colours
            assert item.looks.shape in LEVELS[level].shapes
            middle, height = item.centre
            assert item.cell == height * GRID // 64 * GRID + middle * GRID // 64


def test_an_empty_scene_can_only_be_imagined_into():
    assert {len(misread([], LEVELS[1], 64, random.Random(seed))) for seed in range(20)} == {1}


def test_all_kinds_of_slips_happen_and_the_stream_alone_decides():
    objects = scene(3, random.Random(0))
    seen = [misread(objects, LEVELS[3], 64, random.Random(seed)) for seed in range(60)]
    assert {len(other) - len(objects) for other in seen} == {-1, 0, 1}
    assert any(len(other) == len(objects) and {i.cell for i in other} != {i.cell for i in objects} for other in seen)
    assert seen == [misread(objects, LEVELS[3], 64, random.Random(seed)) for seed in range(60)]
