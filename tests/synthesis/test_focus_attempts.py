from dataclasses import replace

import pytest

from lit_vlm.functional.boxes import box_iou
from lit_vlm.functional.focus_boxes import read_focus_box
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import user_message
from lit_vlm.synthesis.focus_attempts import FocusAttempts
from tests.synthesis.focus_material import TRUE_BOX, focus_sample

GOOD = "<answer>(8, 8, 24, 24)</answer>"
ELSEWHERE = "<answer>(40, 40, 56, 56)</answer>"
SIZE = (64, 64)


class Model:
    """Writes given boxes call by call, and answers by where it is shown a crop."""

    def __init__(self, *boxes: str) -> None:
        self.boxes = boxes
        self.asked = []
        self.looked = []

    def propose(self, samples, call):
        self.asked.append((call, list(samples)))
        return [self.boxes[call % len(self.boxes)] for _ in samples]

    def answer(self, samples, call):
        self.looked.append((call, list(samples)))
        return ["<answer>7</answer>" if sample.messages[1].text == GOOD else "<answer>3</answer>" for sample in samples]


def judge(sample, box, text):
    return float("7" in text), box_iou(box, TRUE_BOX)


def write(box, size):
    return f"<answer>{tuple(round(edge) for edge in box)}</answer>"


def run(model, *samples, judge=judge, **settings):
    attempts = FocusAttempts(**{"coords": "pixel", "crop_size": 32} | settings)
    return attempts(samples or [focus_sample()], model.propose, model.answer, judge, write)


def texts(sample):
    return [(trace.messages[0].text, trace.messages[2].text) for trace in sample.candidates]


def test_each_attempt_gives_a_good_trace_and_the_second_guess_as_the_bad_one() -> None:
    model = Model(GOOD, ELSEWHERE)
    (made,) = run(model, attempts=2)
    assert texts(made) == [(GOOD, "<answer>7</answer>"), (ELSEWHERE, "<answer>3</answer>")] * 2
    assert [dict(trace.scores) for trace in made.candidates[:2]] == [{"answer": 1, "box": 1}, {"answer": 0, "box": 0}]
    # The model is asked twice an attempt for a box, and shown both crops.
    assert [call for call, _ in model.asked] == [call for call, _ in model.looked] == [0, 1, 2, 3]
    assert [len(sample.images) for _, samples in model.asked for sample in samples] == [1] * 4
    assert [sample.messages[1].text for _, samples in model.looked for sample in samples] == [GOOD, ELSEWHERE] * 2
    assert all(len(sample.images) == 2 for _, samples in model.looked for sample in samples)
    assert all(sample.messages[-1].role == "user" for _, samples in model.looked for sample in samples)


@pytest.mark.parametrize("second", ["<answer>(9, 9, 25, 25)</answer>", "nowhere"])
def test_a_second_guess_at_the_same_place_is_replaced_by_a_random_box(second: str) -> None:
    (made,) = run(Model(GOOD, second))
    assert len(made.candidates) == 6
    bad = [read_focus_box(trace.messages[0].text, "pixel", SIZE) for trace in made.candidates[1::2]]
    assert all(box is not None and box_iou(box, TRUE_BOX) < 0.05 for box in bad)
    assert len(set(bad)) == 3
    # What is drawn depends on seed, sample and attempt alone.
    other = focus_sample("another")
    assert (
        run(Model(GOOD, second), other, focus_sample())[1].candidates[1].messages[0] == made.candidates[1].messages[0]
    )
    assert texts(run(Model(GOOD, second), seed=1)[0]) != texts(made)
    assert texts(run(Model(GOOD, second), other)[0]) != texts(made)


def test_an_attempt_without_a_usable_first_box_is_dropped_for_its_sample_alone() -> None:
    model = Model(GOOD, ELSEWHERE)
    broken = focus_sample("broken")

    def propose(samples, call):
        return ["(9, 9, 9, 9)" if sample.id == "broken" and call < 2 else model.boxes[call % 2] for sample in samples]

    model.propose = propose
    whole, part = run(model, focus_sample(), broken, attempts=2)
    assert len(whole.candidates) == 4
    assert texts(part) == [(GOOD, "<answer>7</answer>"), (ELSEWHERE, "<answer>3</answer>")]


def test_an_attempt_for_which_no_other_place_is_found_is_dropped() -> None:
    model = Model("<answer>(0, 0, 64, 64)</answer>")
    (made,) = run(model)
    assert made.candidates == ()
    assert model.looked == []


def test_a_trace_that_cannot_be_judged_is_left_out() -> None:
    (made,) = run(Model(GOOD, ELSEWHERE), attempts=1, judge=lambda _, box, text: None if "3" in text else (1.0, 1.0))
    assert texts(made) == [(GOOD, "<answer>7</answer>")]


def test_boxes_may_be_fractions() -> None:
    (made,) = run(Model("(0.125, 0.125, 0.375, 0.375)", "(.6, .6, .9, .9)"), attempts=1, coords="norm1")
    assert made.candidates[0].scores["box"] == pytest.approx(1.0)
    assert len(made.candidates) == 2


@pytest.mark.parametrize("setting", [{"attempts": 0}, {"tries": 0}, {"crop_size": 0}, {"largest_overlap": 1.5}])
def test_settings_out_of_range_are_refused(setting) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        FocusAttempts(**setting)


def test_a_sample_of_one_step_is_bad() -> None:
    sample = replace(focus_sample(), messages=(user_message("Which digit is this?", images=1),))
    with pytest.raises(BadSampleError, match="its turns are user; a focus box needs"):
        run(Model(GOOD), sample)
