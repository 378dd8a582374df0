from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.functional.sample_digests import image_digests, media_digest, question_digest
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import (
    Answer,
    MediaRef,
    Message,
    Sample,
    TextPart,
    VideoRef,
    assistant_message,
    user_message,
)


def coloured(colour):
    return MediaRef(pil=Image.new("RGB", (8, 8), colour))


BASE = Sample("a", (user_message("Which?", 1), assistant_message("red")), images=(coloured("red"),))


@pytest.mark.parametrize(
    "same",
    [
        replace(BASE, id="b", answer=Answer("text", "x")),
        replace(BASE, messages=(BASE.messages[0], assistant_message("blue"))),
        replace(BASE, messages=(Message("system", (TextPart("Think."),)), *BASE.messages)),
        replace(BASE, images=(coloured("red"),)),
    ],
)
def test_id_answer_completion_and_system_prompt_do_not_count(same):
    assert question_digest(same) == question_digest(BASE)


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, messages=(user_message("Which one?", 1), BASE.messages[1])),
        replace(BASE, images=(coloured("blue"),)),
        replace(BASE, images=()),
        replace(BASE, images=(), videos=(VideoRef(frames=BASE.images),)),
        replace(BASE, messages=(user_message("A"), assistant_message("B"), *BASE.messages)),
    ],
)
def test_question_and_media_count(other):
    assert question_digest(other) != question_digest(BASE)


def test_images_that_are_hashed_already_give_the_same():
    pictured = replace(BASE, images=(MediaRef(bytes=b"one"), MediaRef(bytes=b"two")))
    digests = image_digests(pictured)
    assert digests == [media_digest(MediaRef(bytes=b"one")), media_digest(MediaRef(bytes=b"two"))]
    assert question_digest(pictured, digests) == question_digest(pictured) != question_digest(pictured, digests[::-1])


def test_turns_are_kept_apart():
    first, second = (
        Sample("s", (user_message(one), assistant_message(two), user_message("c"), assistant_message("d")))
        for one, two in (("ab", "c"), ("a", "bc"))
    )
    assert question_digest(first) != question_digest(second)


def test_a_file_counts_by_content_and_not_by_name(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (media_digest(MediaRef(path=name, root=str(tmp_path))) for name in "abc")
    assert a == b == media_digest(MediaRef(bytes=b"one"))
    assert a != c
    with pytest.raises(UserError, match="no media file"):
        media_digest(MediaRef(path=str(tmp_path / "gone")))


def test_a_stretch_of_a_video_is_another_video(tmp_path):
    (tmp_path / "v").write_bytes(b"film")
    whole = VideoRef(file=MediaRef(path=str(tmp_path / "v")))
    digests = {
        question_digest(replace(BASE, videos=(video,)))
        for video in (whole, replace(whole, start=1.0), replace(whole, end=1.0))
    }
    assert len(digests) == 3


def test_remote_addresses_are_not_read():
    assert media_digest(MediaRef(url="https://x/a")) != media_digest(MediaRef(url="https://x/b"))
