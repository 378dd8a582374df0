import random

import pytest

from lit_vlm.data.focus_scenes import FocusSceneGenerator
from lit_vlm.data.scripted_attempts import LARGEST_SHIFT, scripted_attempts, write_box
from lit_vlm.functional.boxes import box_iou
from lit_vlm.functional.focus_boxes import read_focus_box
from lit_vlm.parsing.answers import check_answer

GENERATOR = FocusSceneGenerator()


def read(traces):
    return [(read_focus_box(box, "pixel", (64, 64)), answer) for box, answer in traces]


def test_good_boxes_lie_near_the_true_one_and_bad_ones_elsewhere() -> None:
    for index in range(30):
        sample = GENERATOR.sample("train", index)
        truth = tuple(float(edge) for edge in sample.meta.extra["box"])
        traces = read(scripted_attempts(sample, 3, random.Random(index)))
        assert len(traces) == 6
        for (good, _), (bad, _) in zip(traces[::2], traces[1::2], strict=True):
            assert max(abs(edge - true) for edge, true in zip(good, truth, strict=True)) <= LARGEST_SHIFT
            # Rounding to whole pixels may give the two an edge in common, no more.
            assert box_iou(good, bad) < 0.1


def test_bad_boxes_lie_on_other_shapes_and_on_empty_cells_about_equally_often() -> None:
    on_shape = on_nothing = 0
    for index in range(100):
        sample = GENERATOR.sample("train", index)
        shapes = [tuple(item["box"]) for item in sample.meta.extra["objects"]]
        for bad, _ in read(scripted_attempts(sample, 2, random.Random(index)))[1::2]:
            overlaps = [box_iou(bad, shape) for shape in shapes]
            on_shape += max(overlaps) > 0.5
            on_nothing += max(overlaps) < 0.1
            # Of the size of a shape, so that the numbers alone do not tell.
            assert all(12 <= side <= 14 for side in (bad[2] - bad[0], bad[3] - bad[1]))
    assert on_shape + on_nothing == 200
    assert 75 <= on_nothing <= 125


def test_most_answers_are_right_behind_a_good_box_and_few_behind_a_bad_one() -> None:
    right = {0: 0, 1: 0}
    for index in range(100):
        sample = GENERATOR.sample("train", index)
        for place, (_, answer) in enumerate(scripted_attempts(sample, 3, random.Random(index))):
            right[place % 2] += check_answer(answer, sample.answer).correct
    # 300 each: 0.8 + 0.2 / 10 expected, 0.1 expected.
    assert 0.75 < right[0] / 300 < 0.9
    assert 0.04 < right[1] / 300 < 0.18


def test_attempts_are_a_function_of_sample_and_stream() -> None:
    sample = GENERATOR.sample("train", 0)
    one, other, third = (scripted_attempts(sample, 2, random.Random(seed)) for seed in (1, 1, 2))
    assert one == other != third


def test_a_sample_without_an_answer_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="no answer"):
        scripted_attempts(replace(GENERATOR.sample("train", 0), answer=None), 1, random.Random(0))


def test_a_box_is_written_in_whole_pixels() -> None:
    assert write_box((1.4, 2.6, 30.0, 40.2)) == "<answer>(1, 3, 30, 40)</answer>"
