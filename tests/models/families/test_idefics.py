import pytest
import torch
from PIL import Image

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
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.idefics import Idefics


def plain(shade):
    return MediaRef(pil=Image.new("RGB", (32, 32), (shade,) * 3))


@pytest.fixture
def encoder(family_folder):
    return Backbone(str(family_folder("smolvlm"))).load_encoder()


def test_images_and_frames_of_a_turn_are_laid_out_in_the_order_of_their_places(encoder):
    parts = (ImagePart(0), VideoPart(0), ImagePart(1), VideoPart(1), TextPart("?"))
    sample = Sample(
        "s",
        (Message("user", parts), assistant_message("no")),
        images=(plain(10), plain(200)),
        videos=(VideoRef(frames=(plain(60), plain(90))), VideoRef(frames=(plain(250),) * 2)),
    )
    tiles = encoder.encode([sample]).visual["pixel_values"][0]
    shades = ((tiles.mean(dim=(1, 2, 3)) * 0.5 + 0.5) * 255).round().int()
    # An image of 32 x 32 pixels is enlarged to 64 x 64: four tiles and the whole.
    assert shades.tolist() == [10] * 5 + [60, 90] + [200] * 5 + [250] * 2


def test_a_template_without_videos_gives_way_to_the_familys(encoder):
    assert Idefics().chat_template(encoder.processor, shows_video=False) == encoder.processor.chat_template
    assert "<video>" in Idefics().chat_template(encoder.processor, shows_video=True)
    encoder.processor.chat_template = "{{ 'video' }}"
    assert Idefics().chat_template(encoder.processor, shows_video=True) == "{{ 'video' }}"


def test_a_conversation_has_one_template_though_its_video_comes_late(encoder):
    first = (user_message("Which?"), assistant_message("yes"))
    video = VideoRef(frames=(plain(60),) * 2)
    late = Sample("s", (*first, Message("user", (VideoPart(0),)), assistant_message("no")), videos=(video,))
    labels = encoder.encode([late]).labels
    assert encoder.tokenizer.decode(labels[labels != -100]) == " yes<end_of_utterance> no<end_of_utterance>"


def test_blank_tiles_are_no_tiles():
    pixels = torch.zeros(2, 3, 3, 4, 4)
    pixels[0, :2] = 1.0
    pixels[1, 0, 2, 3, 3] = -1.0
    assert Idefics().tiles(pixels) == 3


def test_smaller_tiles_are_padded_and_masked():
    large, small = (
        {"pixel_values": torch.ones(1, count, 3, size, size), "pixel_attention_mask": torch.ones(1, count, size, size)}
        for count, size in ((1, 4), (2, 2))
    )
    joined = Idefics().join([[large], [], [small]])
    assert joined["pixel_values"].shape == (1, 3, 3, 4, 4)
    assert joined["pixel_attention_mask"].sum(dim=(0, 2, 3)).tolist() == [16, 4, 4]
    assert Idefics().join([[], []]) == {}
