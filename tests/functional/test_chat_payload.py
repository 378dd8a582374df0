import base64
import io

import pytest
from PIL import Image

from lit_vlm.functional.chat_payload import SentPictures, chat_messages, data_uri, described
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import (
    ImagePart,
    MediaRef,
    Message,
    Sample,
    TextPart,
    VideoPart,
    VideoRef,
    assistant_message,
    user_message,
)


def pictured(*messages, images=(), videos=()):
    return Sample("s", tuple(messages), images=images, videos=videos)


def picture(colour=(200, 30, 30), size=(6, 4)):
    return MediaRef(pil=Image.new("RGB", size, colour))


def decoded(uri):
    head, _, content = uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_completion_is_not_sent():
    system = Message("system", (TextPart("Be brief."),))
    sample = pictured(system, user_message("2 + 2?"), assistant_message("4"))
    assert chat_messages(sample, SentPictures()) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
    ]


def test_pictures_are_sent_where_they_stand_without_loss():
    turn = Message("user", (TextPart("Is"), ImagePart(1), TextPart("like"), ImagePart(0), TextPart("?")))
    (message,) = chat_messages(pictured(turn, images=(picture(), picture((1, 2, 3)))), SentPictures())
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "text", "image_url", "text"]
    head, image = decoded(message["content"][1]["image_url"]["url"])
    assert head == "data:image/png;base64"
    assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (6, 4), (1, 2, 3))


def test_jpeg_and_shrinking():
    head, image = decoded(data_uri(Image.new("RGB", (60, 40)), SentPictures(format="jpeg", longest_side=30)))
    assert head == "data:image/jpeg;base64"
    assert (image.format, image.size) == ("JPEG", (30, 20))


def test_shrinking_leaves_the_sample_and_small_pictures_as_they_are():
    large = Image.new("RGB", (60, 40))
    data_uri(large, SentPictures(longest_side=30))
    assert large.size == (60, 40)
    assert decoded(data_uri(Image.new("RGB", (9, 4)), SentPictures(longest_side=30)))[1].size == (9, 4)


def test_a_video_is_sent_as_frames_in_order():
    frames = tuple(picture((shade, 0, 0)) for shade in range(10))
    sample = pictured(Message("user", (VideoPart(0),)), videos=(VideoRef(frames=frames),))
    (message,) = chat_messages(sample, SentPictures(video_frames=2))
    shades = [decoded(part["image_url"]["url"])[1].getpixel((0, 0))[0] for part in message["content"]]
    assert shades == [2, 7]


def test_the_same_picture_gives_the_same_text():
    assert data_uri(picture().pil, SentPictures()) == data_uri(picture().pil, SentPictures())


def test_people_read_placeholders():
    system = Message("system", (TextPart("Look."),))
    assert described([system, user_message("Which?", images=2)]) == "system: Look.\nuser: <image><image>Which?"


@pytest.mark.parametrize("reference", [MediaRef(bytes=b"nonsense"), MediaRef(url="http://x/y.png")])
def test_a_picture_that_cannot_be_read_is_a_fault_of_its_sample(reference):
    sample = Sample("s-1", (user_message("Which?", images=1),), images=(reference,))
    with pytest.raises(BadSampleError, match="s-1"):
        chat_messages(sample, SentPictures())


def test_an_empty_prompt_is_a_fault_of_its_sample():
    with pytest.raises(BadSampleError, match="has no turn"):
        chat_messages(Sample("s", (assistant_message("4"),)), SentPictures())


@pytest.mark.parametrize(
    ("options", "told"),
    [({"format": "gif"}, "format"), ({"longest_side": 0}, "longest_side"), ({"video_frames": 0}, "video_frames")],
)
def test_settings_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        SentPictures(**options)
