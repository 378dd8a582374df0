from dataclasses import replace

from lit_vlm.models.backbone import Backbone
from lit_vlm.models.token_budget import token_budgets


def test_an_image_and_a_video_are_counted(random_tiny_folder, random_tiny_encoder):
    # 128 x 128 pixels at most, 16 x 16 pixels a token.
    image, video = token_budgets(random_tiny_encoder)
    assert image == "an image of 1024 x 1024 pixels is 64 tokens"
    assert video.startswith("a video of 8 frames of 640 x 360 is ")


def test_the_bounds_of_the_backbone_show(random_tiny_folder):
    small = Backbone(str(random_tiny_folder), max_pixels=64 * 64)
    assert token_budgets(small.load_encoder())[0].endswith("is 16 tokens")
    (_, few), (_, many) = (token_budgets(replace(small, max_video_frames=frames).load_encoder()) for frames in (2, 8))
    assert few.startswith("a video of 2 frames")
    assert int(few.split()[-2]) < int(many.split()[-2])


def test_rows_that_would_be_too_long_are_counted_all_the_same(random_tiny_folder):
    encoder = Backbone(str(random_tiny_folder)).load_encoder(max_tokens=8)
    assert token_budgets(encoder)[0].endswith("is 64 tokens")
