import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.records import MediaRef, Sample, user_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.token_budget import token_budgets
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY


def test_an_image_and_a_video_are_counted(random_tiny_encoder):
    # 128 x 128 pixels at most, 16 x 16 pixels a token.
    image, video = token_budgets(random_tiny_encoder)
    assert image == "an image of 1024 x 1024 pixels is 64 tokens, the largest one 64"
    assert video.startswith("a video of 8 frames of 640 x 360 pixels is ")


def test_the_bounds_of_the_backbone_show(random_tiny_folder):
    small = Backbone(str(random_tiny_folder), max_pixels=64 * 64)
    assert token_budgets(small.load_encoder())[0].endswith("is 16 tokens, the largest one 16")
    # Wide images are not reduced to a square number of tokens: 2048 x 2048 pixels hold 16,384.
    wide = token_budgets(replace(small, max_pixels=2048 * 2048).load_encoder())[0]
    assert wide.endswith("is 4,096 tokens, the largest one 16,384")
    (_, few), (_, many) = (token_budgets(replace(small, max_video_frames=frames).load_encoder()) for frames in (2, 8))
    assert few.startswith("a video of 2 frames")
    assert tokens(few) < tokens(many)


def test_rows_that_would_be_too_long_are_counted_all_the_same(random_tiny_folder):
    encoder = Backbone(str(random_tiny_folder)).load_encoder(max_tokens=8)
    assert token_budgets(encoder)[0].endswith("is 64 tokens, the largest one 64")


def tokens(line):
    """Reads what the line says of a common medium."""
    return int(line.split(" is ")[1].split()[0].replace(",", ""))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_told_of_images_is_what_encoding_gives(family_folder, family):
    encoder = Backbone(str(family_folder(family))).load_encoder()
    lines = token_budgets(encoder)
    if family in TEXT_ONLY:
        assert lines == ()
        return
    counts = {}
    for width, height in ((1024, 1024), (2048, 1024), (512, 2048), (40, 40)):
        image = MediaRef(pil=Image.new("RGB", (width, height)))
        ids = encoder.encode_prompts([Sample("s", (user_message("?", images=1),), images=(image,))]).input_ids
        counts[width, height] = int(torch.isin(ids, torch.tensor(encoder.media_token_ids)).sum())
    assert tokens(lines[0]) == counts[1024, 1024]
    most = int(lines[0].rpartition(" ")[2].replace(",", ""))
    assert most >= max(counts.values())
    assert math.isclose(most, max(counts.values()), rel_tol=0.5)  # and no far-fetched bound
