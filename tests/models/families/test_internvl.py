import pytest
from PIL import Image

from lit_vlm.interfaces.records import MediaRef, Message, Sample, VideoPart, VideoRef, assistant_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.internvl import InternVL


@pytest.fixture(scope="module")
def encoder(family_folder):
    return Backbone(str(family_folder("internvl"))).load_encoder()


def test_an_image_is_written_with_its_marks_and_tiles(encoder):
    family, processor = InternVL(), encoder.processor
    assert family.image_text(processor, 32, 32, 1) == "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    # Twice as wide as high: two tiles and the whole.
    assert family.image_text(processor, 32, 64, 1) == "<img>" + "<IMG_CONTEXT>" * 12 + "</img>"


def test_videos_of_one_turn_are_made_equally_long(encoder):
    frame = MediaRef(pil=Image.linear_gradient("L").convert("RGB"))
    videos = tuple(VideoRef(frames=(frame,) * count) for count in (2, 5))
    sample = Sample("v", (Message("user", (VideoPart(0), VideoPart(1))), assistant_message("no")), videos=videos)
    assert len(encoder.encode([sample]).visual["pixel_values"]) == 2 * 5
    assert encoder.count_tokens(sample).media == 2 * 5 * 4
