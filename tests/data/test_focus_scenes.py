import hashlib
import re

import pytest

from lit_vlm.data.focus_scenes import OBJECTS, TASKS, FocusSceneGenerator, judge_by_truth
from lit_vlm.functional.focus_boxes import crop_to_box, read_focus_box
from lit_vlm.functional.focus_conversation import focus_conversation
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.parsing.answers import check_answer

SPLITS = ("train", "validation", "test")


def pixels(sample):
    return hashlib.sha256(b"".join(image.pil.tobytes() for image in sample.images)).hexdigest()


def test_a_sample_is_a_function_of_settings_split_and_index() -> None:
    first, second = FocusSceneGenerator(seed=3), FocusSceneGenerator(seed=3)
    second.sample("train", 0)
    for index in range(10):
        one, other = first.sample("test", index), second.sample("test", index)
        assert pixels(one) == pixels(other)
        assert (one.messages, one.meta, one.answer) == (other.messages, other.meta, other.answer)
        assert first.outline("test", index).meta.difficulty == one.meta.difficulty


def test_seeds_splits_and_indices_give_different_samples() -> None:
    found = {
        pixels(FocusSceneGenerator(seed=seed).sample(split, index))
        for seed in (0, 1)
        for split in SPLITS
        for index in range(10)
    }
    assert len(found) == 60


def test_splits_share_no_scan() -> None:
    generator = FocusSceneGenerator(levels=(3,))
    scans = {
        split: {item["scan"] for index in range(100) for item in generator.sample(split, index).meta.extra["objects"]}
        for split in SPLITS
    }
    assert not scans["train"] & scans["validation"]
    assert not scans["train"] & scans["test"]
    assert not scans["validation"] & scans["test"]


@pytest.mark.parametrize("level", OBJECTS)
def test_the_question_fits_one_object_whose_box_and_digit_are_the_reference_turns(level: int) -> None:
    generator = FocusSceneGenerator(levels=(level,))
    for index in range(30):
        sample = generator.sample("train", index)
        pieces = focus_conversation(sample)
        objects = sample.meta.extra["objects"]
        assert len(objects) == OBJECTS[level]
        asked = [item for item in objects if item["looks"].removeprefix("large ") in sample.messages[0].text]
        assert len(asked) == 1
        (item,) = asked
        assert (
            read_focus_box(pieces.box.text, "pixel", (64, 64)) == tuple(item["box"]) == tuple(sample.meta.extra["box"])
        )
        assert check_answer(sample.messages[3].text, sample.answer).correct
        assert sample.answer.value == str(item["digit"])
        truth = crop_to_box(sample.images[0].pil, tuple(item["box"]), 64)
        assert truth.tobytes() == sample.images[1].pil.tobytes()
        assert [message.train for message in sample.messages] == [False, True, False, True]


@pytest.mark.parametrize("task", ["cell", "side"])
def test_the_question_names_the_place_of_the_object_whose_box_is_the_reference(task: str) -> None:
    generator = FocusSceneGenerator(levels=(1, 2, 3), tasks=(task,))
    words = set()
    for index in range(60):
        sample = generator.sample("train", index)
        assert sample.meta.category == task
        left, top, *_ = box = sample.meta.extra["box"]
        others = [item["box"] for item in sample.meta.extra["objects"] if item["box"] != box]
        question = sample.messages[0].text
        if task == "cell":
            assert f"the object in row {top // 16 + 1}, column {left // 16 + 1}" in question
            continue
        (side,) = (word for word in ("left", "right", "top", "bottom") if f"the {word} object" in question)
        words.add(side)
        axis, sign = (0 if side in ("left", "right") else 1), (-1 if side in ("left", "top") else 1)
        assert all(sign * (box[axis] // 16) > sign * (other[axis] // 16) for other in others)
        assert len(others) + 1 == OBJECTS[sample.meta.difficulty]
    assert task == "cell" or len(words) == 4


def test_tasks_are_drawn_uniformly() -> None:
    generator = FocusSceneGenerator(tasks=("looks", "cell", "side"))
    drawn = [generator.outline("train", index).meta.category for index in range(300)]
    assert all(70 <= drawn.count(task) <= 130 for task in generator.tasks)


def test_every_digit_is_asked_about_equally_often() -> None:
    generator = FocusSceneGenerator()
    digits = [generator.sample("train", index).answer.value for index in range(300)]
    assert all(15 <= digits.count(str(digit)) <= 50 for digit in range(10))


def test_the_bundled_model_knows_every_word_and_sixteen_tokens_show_each_image() -> None:
    encoder = Backbone("tiny").load_encoder()
    generator = FocusSceneGenerator(tasks=TASKS)
    for index in range(30):
        sample = generator.sample("validation", index)
        for message in sample.messages:
            ids = encoder.tokenise(message.text)
            assert encoder.decode(ids) == message.text
        # Words that the model knows, "obj-ect" at most in two pieces: none falls apart into letters.
        question = sample.messages[0].text
        assert len(encoder.tokenise(question)) <= len(re.findall(r"\w+|[^\w\s]", question)) + 1
        assert encoder.count_tokens(sample).media == 32


def test_a_trace_is_judged_by_its_answer_and_by_the_share_of_its_box() -> None:
    sample = FocusSceneGenerator().sample("train", 0)
    left, top, right, bottom = sample.meta.extra["box"]
    right_answer = sample.messages[3].text
    wrong = f"<answer>{(int(sample.answer.value) + 1) % 10}</answer>"
    assert judge_by_truth(sample, (left, top, right, bottom), right_answer) == (1.0, 1.0)
    # Half of it: 2 * 1/2 / (1/2 + 1).
    assert judge_by_truth(sample, (left, top, (left + right) / 2, bottom), wrong) == pytest.approx((0.0, 2 / 3))
    assert judge_by_truth(sample, (0, 0, 0.5, 0.5), right_answer)[1] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    "setting",
    [
        {"levels": (4,)},
        {"levels": ()},
        {"image_size": 32},
        {"crop_size": 8},
        {"tasks": ("colour",)},
        {"tasks": ()},
    ],
    ids=lambda item: next(iter(item)),
)
def test_settings_out_of_range_are_refused(setting) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        FocusSceneGenerator(**setting)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'dev'"):
        FocusSceneGenerator().sample("dev", 0)
