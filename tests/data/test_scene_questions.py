"""Answers are computed anew here: from the words of the question and the objects in ``meta.extra`` alone."""

import functools
import re
from collections import Counter
from typing import Any

import pytest

from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.interfaces.records import Sample

LEVELS = (1, 2, 3, 4, 5)
ANSWER = re.compile(r"<think>((?:(?!</?think>|</?answer>).)+)</think><answer>([^<>]+)</answer>")


@functools.cache
def samples(task: str) -> tuple[Sample, ...]:
    generator = ShapeSceneGenerator(seed=1, tasks=(task,), levels=LEVELS)
    return tuple(generator.sample("train", index) for index in range(300))


def objects_of(sample: Sample) -> list[dict[str, Any]]:
    return sample.meta.extra["objects"]


def thought_and_words(sample: Sample) -> tuple[str, str]:
    match = ANSWER.fullmatch(sample.messages[-1].text)
    assert match
    return match[1], match[2]


def matching(sample: Sample, phrase: str) -> list[dict[str, Any]]:
    """Objects that have every attribute named in words such as ``large red circles``."""
    words = [word.removesuffix("s") for word in phrase.split()]
    return [
        item
        for item in objects_of(sample)
        if all(word in ("object", item["size"], item["colour"], item["shape"]) for word in words)
    ]


def question_words(sample: Sample, pattern: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, sample.question)
    assert match, sample.question
    return match.groups()


def test_counts_are_the_numbers_of_matching_objects() -> None:
    for sample in samples("count"):
        (phrase,) = question_words(sample, r"(?:how many|count the) (.+?)(?: are there\?| do you see\?|\.)")
        total = len(matching(sample, phrase))
        assert sample.answer.type == "number"
        assert sample.answer.value == str(total)
        thought, words = thought_and_words(sample)
        assert words == str(total)
        # The running count ends at the answer, or there is nothing to count.
        assert thought.endswith(f" {total}. so {total}." if total else "none. so 0.")
        assert thought.count(",") == max(total - 1, 0)


def test_counts_of_a_level_are_spread_evenly_from_zero_to_its_most_objects() -> None:
    generator = ShapeSceneGenerator(tasks=("count",), levels=(1,))
    counts = Counter(generator.sample("test", index).answer.value for index in range(400))
    assert set(counts) == {"0", "1", "2", "3"}
    # 100 of each are expected; 4 standard deviations are 35.
    assert all(65 <= count <= 135 for count in counts.values())


def test_existence_is_yes_exactly_where_an_object_matches() -> None:
    for sample in samples("existence"):
        (phrase,) = question_words(sample, r"(?:is there|do you see|does the picture show) an? (.+)\?")
        truth = "yes" if matching(sample, phrase) else "no"
        assert sample.answer.type == "yesno"
        assert sample.answer.value == truth
        assert thought_and_words(sample)[1] == truth
        assert thought_and_words(sample)[0].endswith(f"so {truth}.")


def test_what_does_not_exist_is_a_near_miss() -> None:
    for sample in samples("existence"):
        (phrase,) = question_words(sample, r".+? an? (.+)\?")
        if sample.answer.value == "no":
            asked = phrase.split()
            shared = [sum(word in item.values() for word in asked) for item in objects_of(sample)]
            assert max(shared) == len(asked) - 1


def test_an_stands_before_a_vowel() -> None:
    for sample in samples("existence"):
        assert re.search(r"\b(an (orange)|a (?!orange))", sample.question)


@pytest.mark.parametrize("task", ["existence", "compare", "spatial_relation"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_half_of_the_yes_or_no_answers_are_yes(task: str, split: Any) -> None:
    generator = ShapeSceneGenerator(tasks=(task,), levels=(1,))
    values = Counter(generator.sample(split, index).answer.value for index in range(800))
    # At least 400 such questions are expected to be half yes; 4 standard deviations are at most 0.12 of them.
    assert abs(values["yes"] / (values["yes"] + values["no"]) - 0.5) < 0.1


def test_comparisons_agree_with_both_counts_and_ties_occur() -> None:
    ties = 0
    for sample in samples("compare"):
        either = re.fullmatch(
            r"(?:are there more|which are more,) (.+?),? (?:or|more) (.+?), or are they equal\?", sample.question
        )
        groups = (
            either.groups() if either else question_words(sample, r"(?:are there|do you see) more (.+) than (.+)\?")
        )
        first, second = (len(matching(sample, phrase)) for phrase in groups)
        assert first + second > 0
        ties += first == second
        if either:
            truth = groups[0] if first > second else groups[1] if second > first else "equal"
            assert sample.answer.type == "text"
            assert all(word in truth.split() or word + "s" == truth for word in sample.answer.accept)
        else:
            truth = "yes" if first > second else "no"
            assert sample.answer.type == "yesno"
        assert sample.answer.value == truth
        thought, words = thought_and_words(sample)
        assert words == truth
        sign = ">" if first > second else "<" if first < second else "="
        assert thought.endswith(f" {first} {sign} {second}. so {truth}.")
    # A fifth of 300 is 60; 4 standard deviations are 28.
    assert 32 <= ties <= 88


def test_relations_agree_with_the_centres_of_two_unique_objects() -> None:
    answers = Counter()
    for sample in samples("spatial_relation"):
        first, either, second = question_words(
            sample,
            r"(?:is|does) the (\w+ \w+|\w+ \w+ \w+) (?:stand )?"
            r"(left or right of|above or below|left of|right of|above|below) the (.+)\?",
        )
        (here,), (there,) = matching(sample, first), matching(sample, second)
        axis = 0 if "left" in either or "right" in either else 1
        offset = there["centre"][axis] - here["centre"][axis]
        # Far enough apart to be told with the eye: a fifth of a cell of 16 pixels at the very least.
        assert abs(offset) >= 4
        truth = ("left", "right")[offset < 0] if axis == 0 else ("above", "below")[offset < 0]
        if " or " in either:
            assert sample.answer.type == "text"
            assert sample.answer.value == truth
        else:
            assert sample.answer.type == "yesno"
            assert sample.answer.value == ("yes" if truth == either.removesuffix(" of") else "no")
        assert thought_and_words(sample)[1] == sample.answer.value
        answers[sample.answer.value] += 1
    assert set(answers) == {"yes", "no", "left", "right", "above", "below"}


def test_boxes_are_those_of_the_one_object_named() -> None:
    for sample in samples("locate_box"):
        (phrase,) = question_words(sample, r"(?:draw a box around|box|what is the box of) the (.+)[.?]")
        (item,) = matching(sample, phrase)
        left, top, right, bottom = item["box"]
        assert sample.answer.type == "boxes"
        assert sample.answer.value == [(left, top, right, bottom)]
        assert (sample.answer.coords, sample.answer.tolerance) == ("pixel", 0.5)
        thought, words = thought_and_words(sample)
        assert words == f"({left}, {top}, {right}, {bottom})"
        assert thought.endswith(f"left {left}, top {top}, right {right}, bottom {bottom}.")


def test_points_are_the_centre_of_the_one_object_named() -> None:
    for sample in samples("locate_point"):
        (phrase,) = question_words(sample, r"(?:point at|point to|where is the middle of) the (.+)[.?]")
        (item,) = matching(sample, phrase)
        left, top, right, bottom = item["box"]
        assert sample.answer.type == "point_in_box"
        assert sample.answer.value == (left, top, right, bottom)
        assert sample.answer.coords == "pixel"
        assert thought_and_words(sample)[1] == f"({(left + right) // 2}, {(top + bottom) // 2})"
        assert item["centre"] == [(left + right) / 2, (top + bottom) / 2]


def test_descriptions_list_all_objects_in_reading_order() -> None:
    for sample in samples("describe"):
        # Rows and columns from the centres alone: a cell of the 64 pixel picture is 16 pixels wide.
        placed = sorted(
            (item["centre"][1] // 16, item["centre"][0] // 16, f"{item['size']} {item['colour']} {item['shape']}")
            for item in objects_of(sample)
        )
        phrases = [phrase for _, _, phrase in placed]
        assert sample.answer.type == "list"
        assert sample.answer.value == phrases
        thought, words = thought_and_words(sample)
        assert words == ", ".join(phrases)
        standing = {(row, column): phrase for row, column, phrase in placed}
        for row in range(4):
            (line,) = re.findall(rf"row {row + 1}: ([^.]+)\.", thought)
            assert line.split(", ") == [standing.get((row, column), "-") for column in range(4)]


@pytest.mark.parametrize(
    "task", ["count", "existence", "compare", "spatial_relation", "locate_box", "locate_point", "describe"]
)
def test_texts_are_short_lower_case_and_varied(task: str) -> None:
    openings = set()
    for sample in samples(task):
        assert sample.question.islower()
        thought, _ = thought_and_words(sample)
        assert thought.islower()
        assert len(thought.split()) <= 60
        openings.add(" ".join(sample.question.split()[:2]))
    assert len(openings) >= 2
