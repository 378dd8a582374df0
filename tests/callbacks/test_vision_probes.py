from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from lit_vlm.callbacks.vision_probes import Probe, ProbePlan, completed, plan_probes, read_probes
from lit_vlm.functional.media import open_image
from lit_vlm.functional.replaced_media import GREY
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Answer, MediaRef, Sample, user_message


class Samples(list):
    """Samples by index; an error among them is raised where it is read."""

    def __init__(self, items):
        super().__init__(items)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        item = super().__getitem__(index)
        if isinstance(item, Exception):
            raise item
        return item


class Encoder:
    """Counts letters of the completion; drops what is named too long, refuses what is named broken."""

    def encode(self, samples):
        (sample,) = samples
        if sample.id == "broken":
            raise BadSampleError("row 1", "no picture")
        tokens = len(sample.messages[-1].text) if sample.messages[-1].train else 0
        dropped = ("too long",) if sample.id == "long" else ()
        return SimpleNamespace(count=lambda: SimpleNamespace(labels=tokens), dropped=dropped)


@pytest.fixture
def samples(make_completion):
    """Ten samples with pictures of their own, the seventh without a picture."""
    made = [make_completion(index).sample for index in range(10)]
    made[6] = replace(made[6], images=())
    return Samples(made)


def test_the_first_samples_with_pictures_are_probed(samples):
    assert plan_probes(samples, 4) == ProbePlan(((0, 1), (2, 3)), 0)
    assert max(samples.read) == 3
    assert plan_probes(samples, 99).cycles == ((0, 1, 9), (2, 3), (4, 5), (7, 8))


def test_samples_that_cannot_be_read_or_have_no_answer_are_passed_over(samples):
    samples[0] = BadSampleError("row 1", "broken")
    list.__setitem__(samples, 1, Sample("open", (user_message("q", images=1),), images=samples[1].images))
    assert plan_probes(samples, 4).cycles == ((2, 3), (4, 5))


def test_resized_pictures_are_counted(samples):
    large = replace(samples[1], images=(MediaRef(pil=Image.new("RGB", (20, 20))),))
    list.__setitem__(samples, 1, large)
    plan = plan_probes(samples, 3)
    assert plan == ProbePlan(((0, 2, 1),), 2)  # 2 gets the large one, 1 a small one


def test_ranks_share_whole_circles():
    plan = ProbePlan(((0, 1), (2, 3), (4, 5, 6)), 0)
    assert plan.of_rank(0, 2) == ((0, 1), (4, 5, 6))
    assert plan.of_rank(1, 2) == ((2, 3),)
    assert plan.most_of_a_rank(2) == 5


def test_each_probe_is_shown_the_next_ones_picture(samples):
    probes = read_probes(samples, [(7, 8, 9)], Encoder())
    assert [probe.sample.id for probe in probes] == ["sample-7", "sample-8", "sample-9"]
    assert [probe.other.id for probe in probes] == ["sample-8", "sample-9", "sample-7"]
    assert {probe.tokens for probe in probes} == {len("<answer>7</answer>")}
    assert samples.read == [7, 8, 9]


@pytest.mark.parametrize("name", ["broken", "long"])
def test_a_circle_with_a_sample_that_cannot_be_encoded_is_left_out(samples, name):
    list.__setitem__(samples, 1, replace(samples[1], id=name))
    assert [probe.sample.id for probe in read_probes(samples, [(0, 1), (2, 3)], Encoder())] == ["sample-2", "sample-3"]


def test_the_variants_differ_in_their_picture_only(samples):
    own, blank, swapped = Probe(samples[0], samples[1], 5).variants(8)
    assert own == samples[0]
    assert open_image(blank.images[0]).getpixel((0, 0)) == GREY
    assert open_image(swapped.images[0]).getpixel((0, 0)) == open_image(samples[1].images[0]).getpixel((0, 0))
    assert own.messages == blank.messages == swapped.messages
    assert own.answer == swapped.answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer("number", "7"), "<answer>7</answer>"),
        (Answer("number", "7", place="boxed"), r"\boxed{7}"),
        (Answer("point", (3, 4.5), place="whole"), "(3, 4.5)"),
        (Answer("open", "a warm scene"), "<answer>a warm scene</answer>"),
    ],
)
def test_a_sample_without_a_completion_gets_its_answer(answer, text):
    sample = completed(Sample("s", (user_message("q"),), answer=answer))
    assert sample.messages[-1].text == text
    assert sample.messages[-1].train
    assert sample.prompt == (user_message("q"),)


@pytest.mark.parametrize("answer", [None, Answer("open", None)])
def test_a_sample_without_anything_right_is_no_probe(answer):
    assert completed(Sample("s", (user_message("q"),), answer=answer)) is None


def test_a_completion_that_is_there_is_kept(samples):
    assert completed(samples[0]) is samples[0]
