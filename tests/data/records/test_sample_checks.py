import pytest

from lit_vlm.data.records.sample_checks import check_sample, clip_boxes
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import (
    Answer,
    ImagePart,
    MediaRef,
    Message,
    Sample,
    TextPart,
    assistant_message,
    user_message,
)

SYSTEM = Message("system", (TextPart("S"),))
PICTURE = MediaRef(path="a.png")


def sample(*messages, images=()):
    return Sample("s", messages, images=images)


def test_an_ordinary_sample_passes():
    check_sample(sample(user_message("Q", images=1), assistant_message("A"), images=(PICTURE,)), needs_completion=True)
    twice = Message("user", (ImagePart(0), ImagePart(0), TextPart("Q")))
    check_sample(sample(twice, assistant_message("A"), images=(PICTURE,)), needs_completion=True)
    check_sample(sample(user_message("Q")), needs_completion=False)
    check_sample(sample(SYSTEM, user_message("Q"), assistant_message("🦒")), needs_completion=True)
    check_sample(sample(user_message("", images=1), assistant_message("A"), images=(PICTURE,)), needs_completion=True)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (sample(user_message("Q", images=2), assistant_message("A"), images=(PICTURE,)), r"show the images \[0, 1\]"),
        (sample(user_message("Q"), assistant_message("A"), images=(PICTURE,)), r"images \[\], and there are 1"),
        (sample(user_message("Q")), "last turn is of role 'user'"),
        (sample(user_message("Q"), Message("assistant", (TextPart("A"),))), "nothing to learn"),
        (sample(user_message("Q"), assistant_message(" ")), "is empty"),
        (sample(assistant_message("A")), "no question before the answer"),
        (sample(Message("system", (TextPart("S"),)), assistant_message("A")), "no question before the answer"),
        (sample(assistant_message("Hi"), user_message("Q"), assistant_message("A")), "begins with a turn of role 'ass"),
        (
            sample(SYSTEM, assistant_message("Hi"), user_message("Q"), assistant_message("A")),
            "must begin with the user",
        ),
        (sample(SYSTEM, SYSTEM, user_message("Q"), assistant_message("A")), "turn 2 is a system turn; only the first"),
        (sample(user_message("Q"), SYSTEM, assistant_message("A")), "turn 2 is a system turn"),
        (sample(user_message(" "), assistant_message("A")), "turn 1 is a user's turn without text, image or video"),
        (sample(user_message("Q\ud800"), assistant_message("A")), r"turn 1 holds '\\ud800', half of a character"),
        (sample(user_message("Q"), assistant_message("A\udc00")), r"turn 2 holds '\\udc00'"),
    ],
)
def test_a_sample_that_breaks_a_rule_is_refused(broken, told):
    with pytest.raises(UserError, match=told):
        check_sample(broken, needs_completion=True)


def test_relative_boxes_are_clipped_to_the_picture_and_pixels_are_not():
    inside = Answer("boxes", [(0.0, 0.1, 0.5, 1.0)], coords="norm1")
    assert clip_boxes(inside) == (inside, False)
    beyond = Answer("boxes", [(-0.1, 0.1, 0.5, 1.2)], coords="norm1")
    assert clip_boxes(beyond) == (inside, True)
    pixels = Answer("boxes", [(0.0, 0.0, 5000.0, 5000.0)], coords="pixel")
    assert clip_boxes(pixels) == (pixels, False)
    with pytest.raises(UserError, match="lie outside 0 to 1; is data.coordinates right"):
        clip_boxes(Answer("boxes", [(2.0, 2.0, 3.0, 3.0)], coords="norm1"))
    number = Answer("number", "3")
    assert clip_boxes(number) == (number, False)
