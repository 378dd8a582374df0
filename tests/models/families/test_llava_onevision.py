from dataclasses import replace

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.records import MediaRef, Message, Sample, VideoPart, VideoRef, assistant_message, user_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.llava_onevision import LlavaOneVision

PICTURES = tuple(MediaRef(pil=Image.linear_gradient("L").resize(size).convert("RGB")) for size in ((64, 64), (60, 30)))
ALONE = Sample("alone", (user_message("a", images=1), assistant_message("i see 7.")), PICTURES[:1])
TURNS = Sample(
    "turns", (*ALONE.messages, user_message("b", images=1, first_image=1), assistant_message("no")), PICTURES
)


@pytest.fixture(scope="module")
def encoder(family_folder):
    return Backbone(str(family_folder("llava_onevision"))).load_encoder()


def test_an_image_is_cut_up_only_where_it_is_alone_in_its_conversation(encoder):
    assert isinstance(encoder.family, LlavaOneVision)
    # 16 tokens an image and one for its end; cut into 2 x 2 tiles, it has 8 x 8 tokens more and an end of each line.
    assert encoder.count_tokens(ALONE).media == 16 + 64 + 8
    assert encoder.count_tokens(TURNS).media == 2 * 17
    batch = encoder.encode([ALONE, TURNS, replace(ALONE, images=(), messages=(user_message("a"), ALONE.messages[1]))])
    assert batch.visual["batch_num_images"].tolist() == [1, 2]
    assert batch.visual["pixel_values"].shape == (3, 5, 3, 32, 32)
    assert batch.visual["image_sizes"].tolist() == [[64, 64], [64, 64], [30, 60]]
    assert (batch.visual["pixel_values"][1:, 1:] == 0).all()


def test_several_images_are_the_same_in_one_turn_as_in_two(encoder):
    together = replace(TURNS, messages=(user_message("a", images=2), assistant_message("no")))
    pixels = [encoder.encode([sample]).visual["pixel_values"] for sample in (TURNS, together)]
    assert torch.equal(*pixels)


def test_all_videos_have_the_same_number_of_frames(encoder):
    def video(frames):
        shown = Message("user", (VideoPart(0),))
        return Sample(str(frames), (shown, assistant_message("no")), videos=(VideoRef(frames=PICTURES[:1] * frames),))

    batch = encoder.encode([video(2), video(20)])
    assert batch.visual["pixel_values_videos"].shape == (2, encoder.max_video_frames, 3, 32, 32)


def test_what_is_learnt_follows_what_is_read_at_generation(encoder):
    # The template writes "assistant \n" for a past turn and "assistant\n" for the one to be generated.
    batch = encoder.encode([ALONE])
    learnt = batch.labels[0] != -100
    before = encoder.tokenizer.decode(batch.input_ids[0][: int(learnt.nonzero()[0])])
    assert before.endswith("<|im_start|>assistant\n")
    assert encoder.tokenizer.decode(batch.input_ids[0][learnt]) == "i see 7.<|im_end|>"
