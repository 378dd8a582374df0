import re
from collections import Counter

import numpy
import pytest

from lit_vlm.data.digits_reasoning import TASKS, DigitsReasoning, DigitsReasoningGenerator
from lit_vlm.interfaces.errors import UserError


def samples(count=300, split="train", **settings):
    generator = DigitsReasoningGenerator(**settings)
    return [generator.sample(split, index) for index in range(count)]


def true_answer(sample):
    """Works the answer out again, from the digits on the page."""
    rows = sample.meta.extra["rows"]
    digits = [digit for row in rows for digit in row]
    numbers = [int("".join(map(str, row))) for row in rows]
    task = sample.meta.category
    if task in ("read_digit", "read_number"):
        return str(numbers[0])
    if task == "sum":
        return str(sum(digits))
    if task == "compare":
        return "equal" if numbers[0] == numbers[1] else "top" if numbers[0] > numbers[1] else "bottom"
    if task == "count":
        return str(digits.count(int(re.search(r"\d", sample.question).group())))
    counts = Counter(digits)
    (odd,) = [digit for digit, count in counts.items() if count == 1]
    assert len(counts) == 2
    return str(odd)


def test_answers_follow_from_the_digits_on_the_page():
    seen = Counter()
    for sample in samples():
        assert sample.answer.value == true_answer(sample)
        assert sample.messages[-1].text.endswith(f"</think><answer>{sample.answer.value}</answer>")
        seen[sample.meta.category] += 1
    assert set(seen) == set(TASKS)


def test_every_step_of_a_sum_is_right():
    for sample in samples(tasks=("sum",), count=50):
        steps = re.findall(r"(\d+) \+ (\d+) = (\d+)", sample.messages[-1].text)
        assert steps
        assert all(int(first) + int(second) == int(total) for first, second, total in steps)


def test_a_sample_depends_on_seed_split_and_index_alone():
    first, again = (DigitsReasoningGenerator().sample("test", 5) for _ in range(2))
    assert first.messages == again.messages
    assert numpy.array_equal(numpy.asarray(first.images[0].pil), numpy.asarray(again.images[0].pil))
    other = DigitsReasoningGenerator(seed=1).sample("test", 5)
    assert not numpy.array_equal(numpy.asarray(first.images[0].pil), numpy.asarray(other.images[0].pil))


def test_no_scan_of_the_test_split_is_seen_in_training():
    used = {
        split: {scan for sample in samples(200, split) for row in sample.meta.extra["scans"] for scan in row}
        for split in ("train", "validation", "test")
    }
    assert not used["train"] & used["test"]
    assert not used["train"] & used["validation"]
    assert not used["validation"] & used["test"]


def test_higher_levels_show_more_digits():
    sizes = []
    for level in (1, 3, 5):
        shown = [sum(map(len, sample.meta.extra["rows"])) for sample in samples(100, levels=(level,))]
        sizes.append(sum(shown) / len(shown))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_every_level_fits_the_page():
    for sample in samples(100, levels=(5,)):
        assert sample.images[0].pil.size == (64, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("read",)}, r"tasks holds \['read'\], which there is not; choose one or more of \['read_digit'"),
        ({"tasks": ()}, "tasks is"),
        ({"levels": (0,)}, "levels holds"),
        ({"image_size": 16}, "image_size is 16"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DigitsReasoningGenerator(**settings)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="unknown split 'dev'"):
        DigitsReasoningGenerator().sample("dev", 0)


def test_the_data_module_serves_the_generator():
    data = DigitsReasoning(tasks=["sum"], levels=[2], train_size=3, seed=4)
    assert data.tasks == ("sum",)
    served = data.samples("train")
    assert len(served) == 3
    assert served[1].messages == DigitsReasoningGenerator(4, ("sum",), (2,)).sample("train", 1).messages
