import pytest
from PIL import Image

from lit_vlm.functional.focus_traces import with_traces
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.records import ImagePart
from tests.synthesis.focus_material import focus_sample

TRACES = [("(0, 0, 32, 16)", "7"), ("(5, 5, 5, 9)", "7"), ("(60, 60, 99, 99)", "3"), ("(1, 1, 2, 2)", "unjudged")]


def judge(sample, box, text):
    return None if text == "unjudged" else (float(text == sample.answer.value), box[2] / 64)


def test_each_usable_trace_becomes_a_candidate_with_its_own_crop() -> None:
    sample = focus_sample()
    made = with_traces(sample, TRACES, judge, coords="pixel", crop_size=48)
    first, second = made.candidates  # one box has no area, one trace no score
    assert [message.role for message in first.messages] == ["assistant", "user", "assistant"]
    assert [message.text for message in first.messages] == ["(0, 0, 32, 16)", "Which digit is this?", "7"]
    assert dict(first.scores) == {"answer": 1.0, "box": 0.5}
    # The box that leaves the image is clipped before it is judged.
    assert dict(second.scores) == {"answer": 0.0, "box": 1.0}
    assert [message.train for message in first.messages] == [True, False, True]
    assert made.images[:2] == sample.images
    assert [image.size for image in made.images[2:]] == [(48, 24), (48, 48)]
    assert [trace.messages[1].content[0] for trace in made.candidates] == [ImagePart(2), ImagePart(3)]
    assert made.messages == sample.messages


def test_the_crop_is_cut_from_the_image_of_the_question() -> None:
    sample = focus_sample()
    sample.images[0].pil.paste((250, 0, 0), (32, 32, 64, 64))
    made = with_traces(sample, [("(0.5, 0.5, 1, 1)", "7")], judge, coords="norm1", crop_size=32)
    assert open_image(made.images[2]).crop((4, 4, 32, 32)).getextrema() == ((250, 250), (0, 0), (0, 0))
    assert Image.new("RGB", (1, 1)).mode == open_image(made.images[2]).mode


@pytest.mark.parametrize("traces", [[], [("nowhere", "7")]])
def test_without_usable_traces_there_are_no_candidates(traces) -> None:
    assert with_traces(focus_sample(), traces, judge).candidates == ()
