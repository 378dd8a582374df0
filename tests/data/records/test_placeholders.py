import pytest

from lit_vlm.data.records.placeholders import (
    ASSISTANT_PLACEHOLDER,
    MISSING_PLACEHOLDER,
    NO_PLACEHOLDER,
    REPEATED_PLACEHOLDER,
    place_media,
)
from lit_vlm.data.records.turns import MediumMark, Turn, text_turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import ImagePart, TextPart, VideoPart


def placed(texts, images=(), videos=(), **options):
    """Texts of user and assistant turns, by turns, as they are shown, and the mends."""
    turns = [text_turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]
    result = place_media(turns, images, videos, **options)
    return ["".join(map(shown, message.content)) for message in result.messages], result.repairs


def shown(part):
    match part:
        case TextPart(text):
            return text
        case ImagePart(index):
            return f"[i{index}]"
        case VideoPart(index):
            return f"[v{index}]"


@pytest.mark.parametrize(
    ("texts", "images", "expected", "repairs"),
    [
        (["<image>\nQ", "A"], "a", ["[i0]\nQ", "A"], ()),
        (["Q\n<image>", "A"], "a", ["Q\n[i0]", "A"], ()),
        (["<image>Q", "A", "<Image>R", "B"], "ab", ["[i0]Q", "A", "[i1]R", "B"], ()),
        (["<image2> or <image 1>?", "A"], "ab", ["[i1] or [i0]?", "A"], ()),
        (["<image1> and <image1>?", "A"], "a", ["[i0] and [i0]?", "A"], ()),
        (["Q", "A"], "ab", ["[i0][i1]Q", "A"], (NO_PLACEHOLDER,)),
        (["Q <image>", "A"], "abc", ["[i0][i1]Q [i2]", "A"], (MISSING_PLACEHOLDER,)),
        (["Q", "A", "<image>R", "B"], "ab", ["[i0]Q", "A", "[i1]R", "B"], (MISSING_PLACEHOLDER,)),
        (["Q <image3>", "A"], "abc", ["[i0][i1]Q [i2]", "A"], (MISSING_PLACEHOLDER,)),
        (["<image>Q", "A", "<image>R", "B"], "a", ["[i0]Q", "A", "R", "B"], (REPEATED_PLACEHOLDER,)),
        (["<image>Q", "see <image>"], "a", ["[i0]Q", "see <image>"], (ASSISTANT_PLACEHOLDER,)),
        (["Q", "see <image>"], "", ["Q", "see <image>"], (ASSISTANT_PLACEHOLDER,)),
        (["Q", "A"], "", ["Q", "A"], ()),
    ],
)
def test_images_stand_where_placeholders_say_or_are_mended(texts, images, expected, repairs):
    assert placed(texts, images) == (expected, repairs)


@pytest.mark.parametrize(
    ("texts", "images", "told"),
    [
        (["<image>Q", "A"], "", "1 placeholder of images, but 0 images"),
        (["<image><image><image>Q", "A"], "ab", "3 placeholders of images, but 2 images"),
        (["<image><image>Q", "A"], "a", "2 placeholders of images in one turn, but 1 image"),
        (["<image 3>Q", "A"], "ab", "placeholder <image 3>, but 2 images"),
        (["<image 0>Q", "A"], "ab", "placeholder <image 0>, but 2 images"),
        (["<image 1><image>Q", "A"], "ab", "some placeholders of images have a number"),
        (["<|image_pad|>Q", "A"], "a", "a model's own token"),
        (["<audio>Q", "A"], "", "only images and videos"),
    ],
)
def test_other_disagreements_are_errors(texts, images, told):
    with pytest.raises(UserError, match=told):
        placed(texts, images)


def test_missing_placeholders_may_be_made_an_error():
    with pytest.raises(UserError, match="2 images, but 1 placeholder"):
        placed(["Q <image>", "A"], "ab", prepend_missing=False)
    assert placed(["Q", "A"], "a", prepend_missing=False) == (["[i0]Q", "A"], (NO_PLACEHOLDER,))


def test_images_and_videos_are_counted_apart():
    assert placed(["<video>Q<image>", "A"], "a", "v") == (["[v0]Q[i0]", "A"], ())
    assert placed(["<video>Q", "A"], "a", "v") == (["[i0][v0]Q", "A"], (NO_PLACEHOLDER,))


def test_parts_of_their_own_take_media_in_order_and_leave_texts_alone():
    turns = [
        Turn("user", (MediumMark("image"), "what does <image> mean?", MediumMark("image"))),
        text_turn("assistant", "A"),
    ]
    result = place_media(turns, ["a", "b"], [])
    assert [shown(part) for part in result.messages[0].content] == ["[i0]", "what does <image> mean?", "[i1]"]
    turns = [Turn("user", (MediumMark("image", "x.png"), "Q")), text_turn("assistant", "A")]
    assert place_media(turns, [], []).images == ["x.png"]
    with pytest.raises(UserError, match="use parts or the column, not both"):
        place_media(turns, ["a"], [])
    with pytest.raises(UserError, match="an assistant's turn shows an image"):
        place_media([text_turn("user", "Q"), Turn("assistant", (MediumMark("image"),))], ["a"], [])


def test_media_without_any_question_have_no_place():
    with pytest.raises(UserError, match="1 image, but no user turn"):
        place_media([text_turn("assistant", "A")], ["a"], [])
