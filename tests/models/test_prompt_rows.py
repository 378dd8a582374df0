import pytest
import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.prompt_rows import select_prompts
from tests.models.families.test_contract import samples_of
from tests.models.family_checkpoints import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_taken_out_are_those_encoded_alone(family, family_folder):
    backbone = Backbone(str(family_folder(family)))
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).eval()
    samples = samples_of(family)
    prompts = encoder.encode_prompts(samples)
    rows = torch.tensor([len(samples) - 1, 0, 1, 1, len(samples) // 2])
    found = select_prompts(policy.model, prompts, rows)
    assert found is not None
    with torch.no_grad():
        whole, part = policy.hidden_states(prompts), policy.hidden_states(found)
    kept = found.attention_mask == 1
    torch.testing.assert_close(part[kept], whole[rows][kept], atol=1e-4, rtol=1e-4)
    again = encoder.encode_prompts([samples[row] for row in rows])
    assert found.samples == again.samples
    for name, tensor in again.visual.items():
        assert found.visual[name].shape[0] == tensor.shape[0], name


def test_rows_of_text_alone_have_no_pixels(family_folder):
    backbone = Backbone(str(family_folder("qwen2_5_vl")))
    encoder = backbone.load_encoder()
    prompts = encoder.encode_prompts(samples_of("qwen2_5_vl"))
    found = select_prompts(backbone.load_model(encoder).model, prompts, torch.tensor([0]))
    assert set(found.visual) <= {"mm_token_type_ids"}


def test_unknown_pixels_are_not_guessed(random_tiny_model, random_tiny_encoder, make_sample):
    prompts = random_tiny_encoder.encode_prompts([make_sample("x", "1"), make_sample("y", "2")])
    strange = PromptBatch(
        prompts.input_ids, prompts.attention_mask, {**prompts.visual, "aspect_ratio_ids": torch.zeros(2)}
    )
    assert select_prompts(random_tiny_model.model, strange, torch.tensor([1])) is None


def test_the_only_image_of_a_batch_is_found(random_tiny_model, random_tiny_encoder, make_sample):
    prompts = random_tiny_encoder.encode_prompts([make_sample("x", "1", images=0), make_sample("y", "2")])
    alone = random_tiny_encoder.encode_prompts([make_sample("z", "3"), make_sample("y", "2")])
    found = select_prompts(random_tiny_model.model, prompts, torch.tensor([1]))
    wanted = select_prompts(random_tiny_model.model, alone, torch.tensor([1]))
    assert found is not None
    assert found.visual["pixel_values"].shape == wanted.visual["pixel_values"].shape
    assert torch.equal(found.visual["pixel_values"], prompts.visual["pixel_values"])
