import random

import pytest

from lit_vlm.data.scene_composition import LEVELS, choose_name, compose, fill_in, spread, vary
from lit_vlm.data.scene_drawing import Description


@pytest.mark.parametrize("difficulty", LEVELS)
def test_a_scene_holds_the_wanted_objects_and_no_other_of_the_absent_kind(difficulty: int) -> None:
    level = LEVELS[difficulty]
    kind = Description(colour="red")
    for seed in range(100):
        stream = random.Random(seed)
        wanted = [fill_in(level, kind, stream)]
        scene = compose(level, wanted, [kind], stream)
        assert [looks for looks in scene if looks.colour == "red"] == wanted
        assert level.objects[0] <= len(scene) <= level.objects[1]
        assert all(looks.colour in level.colours and looks.shape in level.shapes for looks in scene)


def test_every_number_of_objects_that_a_level_allows_occurs() -> None:
    stream = random.Random(0)
    assert {len(compose(LEVELS[2], [], [], stream)) for _ in range(200)} == {2, 3, 4, 5}


def test_more_wanted_objects_than_the_fewest_are_all_kept() -> None:
    wanted = [Description("small", "red", "circle")] * 3
    assert compose(LEVELS[1], wanted, [], random.Random(0)) == wanted


def test_varying_changes_exactly_one_of_the_named_attributes() -> None:
    looks = Description("small", "red", "circle")
    stream = random.Random(0)
    for _ in range(100):
        other = vary(LEVELS[4], looks, ("colour", "shape"), stream)
        assert other.size == "small"
        assert sum(mine != theirs for mine, theirs in zip(looks, other, strict=True)) == 1


def test_filling_in_keeps_what_is_given() -> None:
    looks = fill_in(LEVELS[1], Description(colour="blue"), random.Random(0))
    assert looks.colour == "blue"
    assert all(looks)


def test_sizes_are_named_only_from_level_three_on() -> None:
    stream = random.Random(0)
    assert not any(choose_name(LEVELS[2], stream).size for _ in range(100))
    assert {bool(choose_name(LEVELS[3], stream).size) for _ in range(100)} == {False, True}


def test_objects_are_spread_over_different_cells_in_reading_order() -> None:
    scene = [Description("small", "red", "circle")] * 16
    assert [cell for cell, _ in spread(scene, random.Random(0))] == list(range(16))
    assert spread([], random.Random(0)) == ()


def test_each_level_is_at_least_as_hard_as_the_one_before_in_every_respect() -> None:
    for easier, harder in ((LEVELS[number], LEVELS[number + 1]) for number in range(1, 5)):
        assert all(low < high for low, high in zip(easier.objects, harder.objects, strict=True))
        assert set(easier.colours) <= set(harder.colours)
        assert set(easier.shapes) <= set(harder.shapes)
        assert easier.lookalikes < harder.lookalikes
        assert easier.named_by_size <= harder.named_by_size
        assert easier.clutter.overlap <= harder.clutter.overlap
        assert easier.clutter.lines <= harder.clutter.lines
        assert easier.clutter.noise < harder.clutter.noise
        assert easier.clutter.shade <= harder.clutter.shade
