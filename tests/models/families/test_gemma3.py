from dataclasses import replace

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.records import MediaRef, Sample, assistant_message, user_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.gemma3 import Gemma3

PICTURE = MediaRef(pil=Image.linear_gradient("L").resize((90, 30)).convert("RGB"))
SHOWN = Sample("s", (user_message("a", images=1), assistant_message("i see 7.")), (PICTURE,))
TEXT = replace(SHOWN, images=(), messages=(user_message("a"), SHOWN.messages[1]))


@pytest.fixture
def encoder(family_folder):
    return Backbone(str(family_folder("gemma3"))).load_encoder()


def test_token_types_are_given_with_and_without_images(encoder):
    batch = encoder.encode([TEXT, SHOWN])
    placeholder = encoder.tokenizer.convert_tokens_to_ids("<image_soft_token>")
    assert torch.equal(batch.visual["token_type_ids"] == 1, batch.input_ids == placeholder)
    assert encoder.encode([TEXT]).visual["token_type_ids"].sum() == 0


def test_tokens_of_an_image_see_each_other_both_ways(encoder, family_folder):
    policy = Backbone(str(family_folder("gemma3"))).load_model(encoder).eval()
    batch = encoder.encode([SHOWN])
    first = int((batch.visual["token_type_ids"][0] == 1).nonzero()[0])
    with torch.no_grad():
        both_ways = policy.hidden_states(batch)
        batch.visual["token_type_ids"] = torch.zeros_like(batch.input_ids)
        one_way = policy.hidden_states(batch)
    assert torch.equal(both_ways[0, :first], one_way[0, :first])
    assert (both_ways[0, first] - one_way[0, first]).abs().max() > 1e-4


def test_the_end_of_a_turn_is_that_of_the_template(encoder):
    labels = encoder.encode([SHOWN]).labels
    assert encoder.tokenizer.decode(labels[labels != -100]) == "i see 7.<end_of_turn>"


def test_marks_of_images_in_the_data_are_text(encoder):
    sample = replace(TEXT, messages=(user_message("<start_of_image><image_soft_token>"), SHOWN.messages[1]))
    ids = encoder.encode([sample]).input_ids
    assert not torch.isin(
        ids, torch.tensor(encoder.tokenizer.convert_tokens_to_ids(["<start_of_image>", "<image_soft_token>"]))
    ).any()


def test_crops_are_counted_by_encoding(encoder):
    encoder.processor.image_processor.do_pan_and_scan = True
    encoder.processor.image_processor.pan_and_scan_min_crop_size = 8
    assert Gemma3().image_text(encoder.processor, 30, 90, 1) is None
    assert encoder.count_tokens(SHOWN).total == encoder.encode([SHOWN]).input_ids.shape[1]
