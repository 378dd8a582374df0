import io
from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.policy_roles import WritesEnginePrompts
from lit_vlm.models.conversation import Segment
from lit_vlm.models.engine_prompts import engine_prompt, processor_options, prompt_ids


def test_each_image_leaves_one_placeholder_and_a_file_of_its_pixels(random_tiny_encoder, make_sample):
    encoder = random_tiny_encoder
    samples = [make_sample("i see 7.", "7", images=images, sample_id=str(images)) for images in (1, 0, 2)]
    prompts = encoder.encode_prompts(samples)
    assert isinstance(encoder, WritesEnginePrompts)
    written = encoder.engine_prompts(prompts)
    placeholder = encoder.media_token_ids[0]
    for prompt, sample, ids in zip(written, samples, prompt_ids(prompts), strict=True):
        assert prompt.whole == tuple(ids)
        assert prompt.token_ids.count(placeholder) == len(prompt.images) == len(sample.images)
        assert [token for token in prompt.token_ids if token != placeholder] == [
            token for token in ids if token != placeholder
        ]
        for picture, image in zip(prompt.images, sample.images, strict=True):
            opened = Image.open(io.BytesIO(picture))
            assert opened.format == "PNG"
            assert opened.tobytes() == image.pil.convert("RGB").tobytes()
    assert len(written[0].whole) > len(written[0].token_ids)
    assert written[1].processor == {}
    assert set(written[0].processor["size"]) == {"shortest_edge", "longest_edge"}


def test_bounds_of_a_run_go_with_the_image(random_tiny_encoder):
    size = random_tiny_encoder.processor.image_processor.size
    assert processor_options(random_tiny_encoder.processor)["size"]["longest_edge"] == size.longest_edge
    assert processor_options(object()) == {}


def test_what_cannot_be_told_apart_is_refused_by_name(make_sample):
    sample = make_sample("i see 7.", "7", images=2, sample_id="pages")
    segments = [Segment("x", images=(0, 1), videos=(), trained=False)]
    with pytest.raises(BadSampleError, match="2 images, but 1 runs of placeholder"):
        engine_prompt(sample, [1, 9, 9, 9, 2], segments, [9], None)
    assert engine_prompt(sample, [1, 9, 9, 3, 9, 2], segments, [9], None).token_ids == (1, 9, 3, 9, 2)
    with pytest.raises(BadSampleError, match="has videos"):
        engine_prompt(sample, [1], [replace(segments[0], images=(), videos=(0,))], [9], None)
