import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lit_vlm.models.backbone import Backbone
from lit_vlm.models.segment_attention import segment_attention, use_segment_attention


def naive(query, key, value, lengths):
    pieces = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
    return torch.cat([scaled_dot_product_attention(*piece) for piece in zip(*pieces, strict=True)], 2).transpose(1, 2)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [3, 5, 3, 1], [7], [2, 0, 2]])
def test_segments_attend_only_to_themselves(lengths):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8, generator=generator).requires_grad_().unbind(0)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    output, weights = segment_attention(torch.nn.Identity(), query, key, value, cu_seq_lens_q=bounds)
    assert weights is None
    expected = naive(query, key, value, lengths)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-5)
    upstream = torch.randn(expected.shape, generator=generator)
    for tensor in (query, key, value):
        got = torch.autograd.grad(output, tensor, upstream, retain_graph=True)[0]
        wanted = torch.autograd.grad(expected, tensor, upstream, retain_graph=True)[0]
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_the_vision_tower_gives_the_features_of_plain_attention(random_tiny_folder, random_tiny_encoder, make_sample):
    from transformers import AutoModelForImageTextToText

    batch = random_tiny_encoder.encode([make_sample("a", "1", images=3)])
    plain = AutoModelForImageTextToText.from_pretrained(random_tiny_folder)
    ours = Backbone(str(random_tiny_folder)).load_model(random_tiny_encoder).model
    pixels, grids = batch.visual["pixel_values"], batch.visual["image_grid_thw"]
    for expected, got in zip(
        plain.model.get_image_features(pixels, grids).pooler_output,
        ours.model.get_image_features(pixels, grids).pooler_output,
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_saved_configuration_keeps_no_trace(random_tiny_model, tmp_path):
    assert not use_segment_attention(random_tiny_model.model)  # switched already
    random_tiny_model.save(tmp_path)
    assert "lit_vlm" not in (tmp_path / "config.json").read_text()


def test_models_without_such_a_tower_are_left_alone():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=10,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
    )
    assert not use_segment_attention(model)
