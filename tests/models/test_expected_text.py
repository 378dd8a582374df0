from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.functional.media import open_video
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, Sample, VideoRef
from lit_vlm.models.conversation import Segment
from lit_vlm.models.expected_text import DEFAULT_FRAMES_PER_SECOND, expected_text
from lit_vlm.models.families.family import Family

PROCESSOR = type("Processor", (), {"image_token": "<image>", "video_token": "<video>"})()
FRAME = MediaRef(pil=Image.new("RGB", (4, 2)))


class Sizes(Family):
    """Writes down what it is told."""

    def image_text(self, processor, height, width, in_row):
        return f"[{width}x{height} of {in_row}]"

    def video_text(self, processor, frames, height, width, rate):
        return f"({frames} frames of {width}x{height} at {rate:g})"


SAMPLE = Sample("s", (), (FRAME, MediaRef(pil=Image.new("RGB", (3, 9)))), (VideoRef(frames=(FRAME,) * 6, fps=3.0),))
SEGMENT = Segment("a <image><video> b <image>", False, images=(1, 0), videos=(0,))


def test_placeholders_are_written_out_in_order():
    text = expected_text(Sizes(), PROCESSOR, SAMPLE, SEGMENT, 2, max_video_frames=4)
    assert text == "a [3x9 of 2](4 frames of 4x2 at 2) b [4x2 of 2]"


def test_frames_that_a_family_repeats_are_counted():
    family = Sizes()
    family.even_frames = "always"
    segment = replace(SEGMENT, text="<video>", images=())
    assert expected_text(family, PROCESSOR, SAMPLE, segment, 0, 8) == "(8 frames of 4x2 at 4)"


def test_the_frame_rate_is_that_of_the_decoder():
    video = VideoRef(frames=(FRAME,) * 4)
    assert open_video(video, 8)[1] == DEFAULT_FRAMES_PER_SECOND


@pytest.mark.parametrize("family", [Family(), Sizes()])
def test_what_only_a_file_tells_is_not_guessed(family):
    sample = replace(SAMPLE, videos=(VideoRef(file=MediaRef(path="a.mp4")),))
    assert expected_text(family, PROCESSOR, sample, SEGMENT, 2, 8) is None


def test_a_family_without_a_rule_is_not_guessed():
    segment = replace(SEGMENT, text="<image>", videos=(), images=(0,))
    assert expected_text(Family(), PROCESSOR, SAMPLE, segment, 1, 8) is None


def test_a_missing_image_is_an_error():
    sample = replace(SAMPLE, images=(MediaRef(path="nowhere.png"),) * 2)
    with pytest.raises(UserError, match="no media file"):
        expected_text(Sizes(), PROCESSOR, sample, SEGMENT, 2, 8)
