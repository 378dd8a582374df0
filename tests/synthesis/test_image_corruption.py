from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import MediaRef, Message, Sample, TextPart, VideoPart, VideoRef
from lit_vlm.synthesis.image_corruption import ImageCorruption

NOISE = Image.effect_noise((80, 64), 90).convert("RGB")


@pytest.fixture
def noisy(image_sample):
    return replace(image_sample, images=(MediaRef(pil=NOISE),))


@pytest.mark.parametrize("kind", ["crop", "blank", "blur", "patch_mask"])
def test_images_change_and_keep_their_size(noisy, kind):
    spoilt = ImageCorruption(kind)(noisy)
    assert spoilt.images[0].pil.size == NOISE.size
    assert spoilt.images[0].pil.tobytes() != NOISE.tobytes()
    assert replace(spoilt, images=noisy.images) == noisy


def test_the_crop_depends_on_the_sample_and_the_seed_alone(noisy):
    corrupt = ImageCorruption()
    first = corrupt(noisy).images[0].pil.tobytes()
    assert corrupt(noisy).images[0].pil.tobytes() == first
    assert corrupt(replace(noisy, id="other")).images[0].pil.tobytes() != first
    assert ImageCorruption(seed=1)(noisy).images[0].pil.tobytes() != first


def test_images_of_a_sample_are_cropped_apart_and_frames_of_a_video_alike(noisy):
    several = ImageCorruption()(replace(noisy, images=noisy.images * 2))
    assert several.images[0].pil.tobytes() != several.images[1].pil.tobytes()
    video = VideoRef(frames=noisy.images * 3, fps=2.0)
    shown = Sample("v", (Message("user", (VideoPart(0), TextPart("what?"))),), videos=(video,))
    (spoilt,) = ImageCorruption()(shown).videos
    assert len({frame.pil.tobytes() for frame in spoilt.frames}) == 1
    assert spoilt.frames[0].pil.tobytes() != NOISE.tobytes()


def test_text_stays_as_it_is(make_sample):
    sample = make_sample("a", "1", images=0)
    assert ImageCorruption()(sample) is sample


def test_an_image_that_cannot_be_read_is_named(noisy):
    with pytest.raises(BadSampleError, match="s"):
        ImageCorruption()(replace(noisy, images=(MediaRef(bytes=b"nothing"),)))


@pytest.mark.parametrize(
    "settings",
    [{"kind": "crops"}, {"low": 0.0}, {"low": 0.5, "high": 0.2}, {"radius": 0}, {"hidden": 0}, {"cells": 0}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="corruption"):
        ImageCorruption(**settings)
