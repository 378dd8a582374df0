import pytest

from lit_vlm.models.backbone import Backbone
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


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_each_pair_of_frames_begins_with_its_time(processor):
    text = QwenVL().video_text(processor, 4, 32, 32, 2.0)
    frame = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    assert text == f"<0.2 seconds>{frame}<1.2 seconds>{frame}"
