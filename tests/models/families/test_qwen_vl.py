import itertools

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.records import MediaRef, Message, Sample, VideoPart, VideoRef, assistant_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.family import Family, Run
from lit_vlm.models.families.qwen_vl import QwenVL


@pytest.fixture
def processor(family_folder, family):
    return Backbone(str(family_folder(family))).load_encoder().processor


@pytest.mark.parametrize("family", QwenVL.model_types)
def test_an_image_is_as_many_tokens_as_it_has_squares_of_patches(processor):
    # 48 x 32 pixels, patches of 8 and squares of 2 x 2 of them.
    assert QwenVL().image_text(processor, 48, 32, 1) == "<|image_pad|>" * 6
    # 160 x 160 pixels are above the bound of 64 x 64.
    assert QwenVL().image_text(processor, 160, 160, 1) == "<|image_pad|>" * 16


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_two_frames_of_a_video_share_their_tokens(processor):
    assert QwenVL().video_text(processor, 3, 32, 32, 2.0) == "<|video_pad|>" * (2 * 4)


@pytest.mark.parametrize("size", [(640, 480), (33, 17), (100, 900)])
@pytest.mark.parametrize("family", QwenVL.model_types)
def test_the_tokens_of_videos_of_any_length_and_size_are_predicted(family, size, family_folder):
    encoder = Backbone(str(family_folder(family))).load_encoder()
    frame = MediaRef(pil=Image.linear_gradient("L").resize(size).convert("RGB"))
    for count in (1, 2, 3, 7):
        shown = Message("user", (VideoPart(0),))
        videos = (VideoRef(frames=(frame,) * count, fps=2.0),)
        sample = Sample("v", (shown, assistant_message("no")), videos=videos)
        assert encoder.count_tokens(sample).total == encoder.encode([sample]).input_ids.shape[1]


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_each_pair_of_frames_begins_with_its_time(processor):
    text = QwenVL().video_text(processor, 4, 32, 32, 2.0)
    frame = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    assert text == f"<0.2 seconds>{frame}<1.2 seconds>{frame}"


def runs_of_images(processor):
    """Runs of text with one, two and no images between words, of sizes that repeat and differ."""
    sizes = [((48, 32),), ((160, 90), (33, 70)), ((48, 32),), ((20, 20), (48, 32))]
    turn = itertools.count()
    return [
        Run(
            "".join(f"which {processor.image_token} digit" for _ in images),
            [Image.linear_gradient("L").rotate(90 * next(turn)).resize(size).convert("RGB") for size in images],
            [],
            len(images),
        )
        for images in sizes
    ]


@pytest.mark.parametrize("family", QwenVL.model_types)
def test_runs_processed_together_are_what_each_is_alone(processor):
    runs = runs_of_images(processor)
    together = QwenVL().process_all(processor, runs)
    assert len(together) == len(runs)
    for run, output in zip(runs, together, strict=True):
        alone = dict(QwenVL().process(processor, run.text, run.images, run.videos, run.in_row))
        assert output.keys() == alone.keys()
        for name, value in alone.items():
            assert torch.equal(output[name], torch.as_tensor(value)), name


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_pixels_of_one_call_are_joined_without_a_copy_and_others_in_order(processor):
    outputs = QwenVL().process_all(processor, runs_of_images(processor))
    visual = [{name: output[name] for name in ("pixel_values", "image_grid_thw")} for output in outputs]
    in_order = [[visual[0], visual[1]], [], [visual[2]], [visual[3]]]
    joined = QwenVL().join(in_order)
    assert joined["pixel_values"].data_ptr() == visual[0]["pixel_values"].data_ptr()
    for rows in (in_order, [visual[:3]], [[visual[1]], [visual[0], visual[2]], [visual[3]]], [visual[1:]], [[]]):
        joined = QwenVL().join(rows)
        expected = Family().join(
            [[{name: tensor.clone() for name, tensor in run.items()} for run in row] for row in rows]
        )
        assert joined.keys() == expected.keys()
        assert all(torch.equal(joined[name], tensor) for name, tensor in expected.items())
