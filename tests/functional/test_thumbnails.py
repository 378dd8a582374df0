import base64
import io

import pytest
from PIL import Image

from lit_vlm.functional.thumbnails import thumbnails
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, Sample, VideoRef


def opened(address):
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


def coloured(colour, size=(8, 8)):
    return MediaRef(pil=Image.new("RGB", size, colour))


def test_large_pictures_shrink_and_small_ones_stay():
    sample = Sample("s", (), images=(coloured("red", (400, 200)), coloured("blue", (10, 20))))
    large, small = map(opened, thumbnails(sample, side=100))
    assert large.size == (100, 50)
    assert small.size == (10, 20)
    assert large.convert("RGB").getpixel((50, 25)) == (255, 0, 0)


def test_there_are_no_more_than_asked_for_and_videos_come_last():
    video = VideoRef(frames=tuple(coloured("green") for _ in range(9)))
    sample = Sample("s", (), images=(coloured("red"),), videos=(video,))
    colours = [opened(address).convert("RGB").getpixel((0, 0)) for address in thumbnails(sample, most=3)]
    assert colours == [(255, 0, 0), (0, 128, 0), (0, 128, 0)]
    assert len(thumbnails(Sample("s", (), images=(coloured("red"),) * 9), most=2)) == 2
    assert thumbnails(Sample("s", ())) == []


def test_the_picture_itself_is_left_as_it_is():
    reference = coloured("red", (400, 200))
    thumbnails(Sample("s", (), images=(reference,)), side=10)
    assert reference.pil.size == (400, 200)


def test_a_picture_that_cannot_be_decoded_is_named():
    with pytest.raises(UserError, match="cannot decode"):
        thumbnails(Sample("s", (), images=(MediaRef(bytes=b"no picture"),)))
