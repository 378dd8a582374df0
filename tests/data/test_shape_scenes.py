import hashlib
from statistics import mean
from typing import Any

import pytest

from lit_vlm.data.scene_drawing import Description
from lit_vlm.data.shape_scenes import TASKS, ShapeSceneGenerator, split_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample

SPLITS: tuple[Any, ...] = ("train", "validation", "test")


def picture(sample: Sample) -> str:
    return hashlib.sha256(sample.images[0].pil.tobytes()).hexdigest()


def scene(sample: Sample) -> tuple[tuple[Any, ...], ...]:
    """What stands where, without the offsets within the cells."""
    return tuple(
        (item["row"], item["column"], item["size"], item["colour"], item["shape"])
        for item in sample.meta.extra["objects"]
    )


def test_a_sample_is_a_function_of_settings_split_and_index() -> None:
    first, second = ShapeSceneGenerator(seed=3, levels=(5,)), ShapeSceneGenerator(seed=3, levels=(5,))
    second.sample("train", 0)
    for index in range(20):
        one, other = first.sample("test", index), second.sample("test", index)
        assert picture(one) == picture(other)
        assert one.messages == other.messages
        assert one.meta == other.meta
        assert one.answer == other.answer


def test_seeds_and_indices_give_different_samples() -> None:
    zero, one = ShapeSceneGenerator(seed=0, levels=(5,)), ShapeSceneGenerator(seed=1, levels=(5,))
    pictures = [picture(generator.sample("train", index)) for generator in (zero, one) for index in range(50)]
    assert len(set(pictures)) == 100


@pytest.mark.parametrize("levels", [(1,), (1, 2, 3, 4, 5)])
def test_splits_share_no_scene_no_question_about_it_and_no_picture(levels: tuple[int, ...]) -> None:
    # Level 1 has few scenes, so that training alone meets some twice; the validation split of another seed counts too.
    generators = [ShapeSceneGenerator(seed=seed, levels=levels) for seed in (0, 1)]
    found = {
        split: [generator.sample(split, index) for generator in generators for index in range(200)] for split in SPLITS
    }
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for key in (scene, picture, lambda sample: (scene(sample), sample.question)):
            assert not {key(sample) for sample in found[first]} & {key(sample) for sample in found[second]}
    if levels == (1,):
        assert len({scene(sample) for sample in found["train"]}) < len(found["train"])


def test_eight_tenths_of_the_scenes_belong_to_training() -> None:
    looks = [Description(size, "red", shape) for size in ("small", "large") for shape in ("circle", "square")]
    owners = [
        split_of(((first, mine), (second, other)))
        for first in range(8)
        for second in range(8, 16)
        for mine in looks
        for other in looks
    ]
    # 1024 scenes: 4 standard deviations are 0.05 of them for training, 0.04 for the others.
    assert owners.count("train") / 1024 == pytest.approx(0.8, abs=0.05)
    assert owners.count("validation") / 1024 == pytest.approx(0.1, abs=0.04)
    assert owners.count("test") / 1024 == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_and_level_occurs_and_is_recorded(split: Any) -> None:
    generator = ShapeSceneGenerator(levels=(2, 4))
    samples = [generator.sample(split, index) for index in range(120)]
    assert {sample.meta.category for sample in samples} == set(TASKS)
    assert {sample.meta.difficulty for sample in samples} == {2, 4}
    assert {(sample.meta.source, sample.meta.split) for sample in samples} == {("shape_scenes", split)}


def test_a_sample_shows_one_picture_before_its_question() -> None:
    sample = ShapeSceneGenerator(seed=7, image_size=96).sample("validation", 12)
    assert sample.id == "shape_scenes/validation/7/12"
    assert [message.role for message in sample.messages] == ["user", "assistant"]
    assert sample.messages[-1].train
    (reference,) = sample.images
    assert reference.size == reference.pil.size == (96, 96)
    assert reference.pil.mode == "RGB"


@pytest.mark.parametrize("image_size", [32, 45, 128])
def test_every_picture_size_keeps_boxes_inside_and_centres_whole(image_size: int) -> None:
    generator = ShapeSceneGenerator(levels=(5,), image_size=image_size)
    for index in range(20):
        for item in generator.sample("train", index).meta.extra["objects"]:
            left, top, right, bottom = item["box"]
            assert 0 <= left < right <= image_size
            assert 0 <= top < bottom <= image_size
            assert item["centre"] == [(left + right) / 2, (top + bottom) / 2]


def test_higher_levels_show_more_objects() -> None:
    numbers = []
    for level in (1, 2, 3, 4, 5):
        generator = ShapeSceneGenerator(tasks=("describe",), levels=(level,))
        numbers.append(mean(len(generator.sample("train", index).meta.extra["objects"]) for index in range(60)))
    assert numbers == sorted(numbers)
    assert numbers[-1] - numbers[0] > 3


def test_one_task_and_one_level_are_enough() -> None:
    generator = ShapeSceneGenerator(tasks=("locate_point",), levels=(5,))
    assert generator.tasks == ("locate_point",)
    assert generator.sample("train", 0).meta.category == "locate_point"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("count", "sing")}, r"tasks holds \['sing'\].*describe"),
        ({"tasks": ()}, r"tasks is empty.*count"),
        ({"levels": (0, 1)}, r"levels holds \[0\].*\[1, 2, 3, 4, 5\]"),
        ({"levels": ()}, r"levels is empty"),
        ({"image_size": 31}, r"image_size is 31.*at least 32"),
    ],
)
def test_wrong_settings_are_refused_with_the_field_and_what_there_is(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShapeSceneGenerator(**settings)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'valid'; there are train, validation, test"):
        ShapeSceneGenerator().sample("valid", 0)  # type: ignore[arg-type]


def test_the_data_module_serves_the_generator():
    from lit_vlm.data.shape_scenes import ShapeScenes

    data = ShapeScenes(tasks=["count"], levels=[2], train_size=3, seed=4)
    assert data.tasks == ("count",)
    assert data.samples("train")[1].messages == ShapeSceneGenerator(4, ("count",), (2,)).sample("train", 1).messages
