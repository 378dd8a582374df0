import weakref

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.image_attention import attention_modules, image_attention
from tests.models.families.test_contract import samples_of
from tests.models.family_checkpoints import FAMILIES

TEXT_ONLY = ("qwen2", "llama")
WITH_IMAGES = [family for family in FAMILIES if family not in TEXT_ONLY]


def load(folder, **options):
    backbone = Backbone(str(folder), **options)
    encoder = backbone.load_encoder()
    return encoder, backbone.load_model(encoder).eval()


def naive(policy, encoder, sample):
    """Works a row out from all attention maps, token by token."""
    batch = encoder.encode([sample])
    with torch.no_grad():
        maps = policy.model.base_model(
            batch.input_ids, attention_mask=batch.attention_mask, output_attentions=True, **batch.visual
        ).attentions
    visual = [token in encoder.media_token_ids for token in batch.input_ids[0].tolist()]
    if True not in visual:
        return None
    begin = visual.index(True)
    shares = []
    for weights in maps:
        rows = weights[0].tolist()
        values = [
            sum(rows[head][query][key] for key in range(len(visual)) if visual[key])
            for head in range(len(rows))
            for query in range(begin, len(visual))
            if not visual[query]
        ]
        shares.append(sum(values) / len(values))
    return shares


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_the_shares_are_those_of_all_maps(family, family_folder):
    encoder, policy = load(family_folder(family))
    eager_encoder, eager = load(family_folder(family), attention="eager")
    samples = samples_of(family)
    expected = [naive(eager, eager_encoder, sample) for sample in samples]
    wanted = torch.tensor([row for row in expected if row is not None])
    found = image_attention(policy, encoder.encode(samples))
    assert found.shape == (len(wanted), policy.model.config.get_text_config().num_hidden_layers)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert (found > 0).all()
    assert (found < 1).all()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_padding_on_the_left_changes_nothing(family, family_folder):
    encoder, policy = load(family_folder(family))
    samples = samples_of(family)
    alone = [image_attention(policy, encoder.encode_prompts([sample])) for sample in samples]
    together = image_attention(policy, encoder.encode_prompts(samples))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_rows_without_images_do_not_count(random_tiny_model, random_tiny_encoder, make_sample):
    plain, seen = make_sample("i see 7.", "7", images=0), make_sample("i see 7.", "7")
    assert image_attention(random_tiny_model, random_tiny_encoder.encode([plain])).shape == (0, 4)
    both = image_attention(random_tiny_model, random_tiny_encoder.encode([plain, seen]))
    alone = image_attention(random_tiny_model, random_tiny_encoder.encode([seen]))
    assert both.shape == (1, 4)
    torch.testing.assert_close(both, alone)


def test_the_model_is_left_as_it_was(random_tiny_model, random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode([image_sample])
    before = random_tiny_model.model.config.get_text_config()._attn_implementation
    with torch.no_grad():
        states = random_tiny_model.hidden_states(batch)
        image_attention(random_tiny_model, batch)
        assert torch.equal(random_tiny_model.hidden_states(batch), states)
    assert random_tiny_model.model.config.get_text_config()._attn_implementation == before != "eager"
    assert not any(module._forward_hooks for module in attention_modules(random_tiny_model.model))


def test_a_map_is_let_go_of_within_its_layer(random_tiny_model, random_tiny_encoder, image_sample):
    maps, alive = [], []
    for layer in random_tiny_model.model.get_decoder().layers:
        layer.self_attn.register_forward_hook(lambda module, inputs, output: maps.append(weakref.ref(output[1])))
        layer.mlp.register_forward_pre_hook(lambda module, inputs: alive.append(maps[-1]() is not None))
    image_attention(random_tiny_model, random_tiny_encoder.encode([image_sample]))
    assert len(maps) == 4
    assert alive == [False] * 4


def test_a_layer_without_weights_is_refused(random_tiny_model, random_tiny_encoder, image_sample):
    attention_modules(random_tiny_model.model)[2].register_forward_hook(
        lambda module, inputs, output: (output[0], None)
    )
    with pytest.raises(UserError, match="decoder layer 2 shows no attention weights"):
        image_attention(random_tiny_model, random_tiny_encoder.encode([image_sample]))


def test_a_layer_without_attention_is_refused(random_tiny_model):
    del random_tiny_model.model.get_decoder().layers[1].self_attn
    with pytest.raises(UserError, match="decoder layer 1 of .* has no attention over all tokens"):
        attention_modules(random_tiny_model.model)
