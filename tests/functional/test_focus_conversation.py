from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.functional.focus_conversation import answer_step, box_step, focus_conversation, with_shown_images
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import (
    ImagePart,
    Message,
    Preference,
    Sample,
    TextPart,
    assistant_message,
    user_message,
)
from tests.synthesis.focus_material import focus_sample

SYSTEM = Message("system", (TextPart("Look closely."),))


def test_the_pieces_are_found_with_and_without_a_system_turn() -> None:
    sample = focus_sample()
    pieces = focus_conversation(sample)
    assert pieces.question == sample.messages[:1]
    assert (pieces.box, pieces.look) == sample.messages[1:3]
    assert (pieces.image, pieces.crop) == (0, 1)
    with_system = focus_conversation(replace(sample, messages=(SYSTEM, *sample.messages[:3])))
    assert with_system.question == (SYSTEM, sample.messages[0])
    assert with_system.box == pieces.box


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((), "its turns are none"),
        (focus_sample().messages[:2], "its turns are user, assistant; a focus box needs"),
        (focus_sample().messages[1:], "its turns are assistant, user, assistant"),
        ((*focus_sample().messages, user_message("again")), "its turns are user, assistant, user, assistant, user"),
        (
            (*focus_sample().messages[:2], user_message("Which digit is this?")),
            "a turn of the user shows 0 images; a focus box needs one in each",
        ),
        ((user_message("where?", images=2), *focus_sample().messages[1:]), "shows 2 images"),
    ],
)
def test_other_conversations_are_bad_and_named(messages, message) -> None:
    with pytest.raises(BadSampleError, match=message):
        focus_conversation(replace(focus_sample("row 3"), messages=messages))


def test_the_box_step_shows_the_image_alone() -> None:
    sample = replace(focus_sample(), messages=(SYSTEM, *focus_sample().messages))
    step = box_step(sample)
    assert step.messages == sample.prompt[:2] == step.prompt
    assert step.images == sample.images[:1]
    assert step.answer == sample.answer


def test_the_answer_step_shows_the_given_crop_behind_the_given_box() -> None:
    sample, crop = focus_sample(), Image.new("RGB", (32, 16), (1, 2, 3))
    step = answer_step(sample, "<answer>(1, 2, 9, 9)</answer>", crop)
    assert [message.text for message in step.prompt] == [
        "which digit is in the red square?",
        "<answer>(1, 2, 9, 9)</answer>",
        "Which digit is this?",
    ]
    assert step.prompt == step.messages
    assert step.images[0] == sample.images[0]
    assert step.images[1].pil is crop
    assert step.images[1].size == (32, 16)
    assert [part for part in step.messages[2].content if isinstance(part, ImagePart)] == [ImagePart(1)]


def test_images_that_nothing_shows_are_left_out_and_the_others_keep_their_places() -> None:
    images = tuple(replace(focus_sample().images[0], size=(index, 1)) for index in range(5))
    prompt = (user_message("b", images=1, first_image=4),)
    pair = Preference((assistant_message("x"),), (user_message("c", images=1, first_image=3),), prompt)
    sample = Sample("s", (user_message("a", images=1, first_image=1),), images, preferences=(pair,))
    made = with_shown_images(sample)
    assert [image.size[0] for image in made.images] == [1, 3, 4]
    (made_pair,) = made.preferences
    sides = [made.messages, made_pair.rejected, made_pair.prompt]
    assert [made.images[turns[0].content[0].index].size[0] for turns in sides] == [1, 3, 4]
    assert with_shown_images(made) == made
