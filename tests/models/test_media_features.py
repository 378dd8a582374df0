import pytest
import torch

from lit_vlm.models.backbone import Backbone
from lit_vlm.models.media_features import encode_media, takes_features
from lit_vlm.models.prompt_rows import PIXELS, TOKEN_TYPES
from tests.models.families.test_contract import WITH_IMAGES, samples_of
from tests.models.family_checkpoints import TEXT_ONLY


def load(folder):
    backbone = Backbone(str(folder))
    encoder = backbone.load_encoder()
    return encoder, backbone.load_model(encoder).eval()


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_features_give_exactly_the_states_of_pixels(family, family_folder):
    encoder, policy = load(family_folder(family))
    prompts = encoder.encode_prompts(samples_of(family))
    with torch.no_grad():
        expected = policy.hidden_states(prompts)
        media = encode_media(policy.model, prompts)
        rest = {name: tensor for name, tensor in prompts.visual.items() if name not in PIXELS.values()}
        for _ in range(2):  # the first use must not spend them
            output = policy.model.base_model(
                prompts.input_ids, attention_mask=prompts.attention_mask, use_cache=False, **rest, **media.inputs()
            )
            assert torch.equal(output.last_hidden_state, expected)


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_features_of_some_prompts_are_those_of_the_prompts_alone(family, family_folder):
    encoder, policy = load(family_folder(family))
    samples = samples_of(family)
    rows = torch.tensor([3, 0, 1, 1])
    with torch.no_grad():
        found = encode_media(policy.model, encoder.encode_prompts(samples)).select(rows)
        expected = encode_media(policy.model, encoder.encode_prompts([samples[row] for row in rows]))
    assert found.kinds.keys() == expected.kinds.keys()
    for kind, features in expected.kinds.items():
        torch.testing.assert_close(found.kinds[kind].features, features.features, atol=1e-5, rtol=1e-4)
        assert torch.equal(found.kinds[kind].prompts, features.prompts)
        assert len(found.kinds[kind].deeper) == len(features.deeper) == int(family == "qwen3_vl")


@pytest.mark.parametrize("family", [*TEXT_ONLY, "qwen2_5_vl"])
def test_text_has_no_features(family, family_folder):
    encoder, policy = load(family_folder(family))
    media = encode_media(policy.model, encoder.encode_prompts(samples_of(family)[:1]))
    assert media.inputs() == {}
    assert not media.has_graph


def test_features_have_a_graph_where_the_tower_trains(family_folder):
    encoder, policy = load(family_folder("qwen2_5_vl"))
    prompts = encoder.encode_prompts(samples_of("qwen2_5_vl"))
    assert takes_features(policy.model)
    assert encode_media(policy.model, prompts).has_graph
    for parameter in policy.vision_parameters():
        parameter.requires_grad_(False)
    assert not encode_media(policy.model, prompts).has_graph


def test_placeholders_without_features_are_refused(random_tiny_model, random_tiny_encoder, make_sample):
    prompts = random_tiny_encoder.encode_prompts([make_sample("x", "1")])
    assert set(TOKEN_TYPES) & set(prompts.visual)
    prompts.input_ids[0, -1] = random_tiny_model.model.config.image_token_id
    with pytest.raises(ValueError, match="image placeholder tokens, but"):
        encode_media(random_tiny_model.model, prompts)
