import pytest
import torch

from lit_vlm.gradients.prior_deltas import DecoderWeights, check_decoders
from lit_vlm.interfaces.errors import UserError
from tests.gradients.direction_material import HeldSource, decoder

UP = "layers.0.mlp.up_proj.weight"
QUERY_BIAS = "layers.0.self_attn.q_proj.bias"


def weights(label="start", **options):
    return DecoderWeights(HeldSource(decoder(0, **options), label))


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model."])
def test_weights_are_read_under_the_same_name_in_every_family(prefix):
    held = weights(prefix=prefix)
    assert held.layers == 2
    assert torch.equal(held.read(UP, (5, 4)), held.source.tensors[f"{prefix}{UP}"])


def test_weights_are_read_in_single_precision():
    held = DecoderWeights(HeldSource({name: value.bfloat16() for name, value in decoder(0).items()}))
    assert held.read(UP, (5, 4)).dtype is torch.float32


def test_a_bias_beside_a_matrix_without_one_is_zero_but_a_matrix_is_missed():
    held = weights(without=["bias", "up_proj"])
    assert not held.lacks(QUERY_BIAS)
    assert held.shape(QUERY_BIAS) is None
    assert torch.equal(held.read(QUERY_BIAS, (6,)), torch.zeros(6))
    assert held.lacks(UP)
    assert held.lacks("layers.0.mlp.up_proj.bias")


def test_decoders_that_fit_pass():
    check_decoders(weights(), [weights("prior", without=["bias"])], {UP: (5, 4), QUERY_BIAS: (6,)})


@pytest.mark.parametrize(
    ("prior", "shapes", "message"),
    [
        ({"layers": 3}, {UP: (5, 4)}, "decoder of prior has 3 layers, that of start 2"),
        ({"without": ["up_proj"]}, {UP: (5, 4)}, r"prior lacks 1 of the 1 weights to bias, layers\.0\.mlp"),
        ({}, {UP: (5, 9)}, r"1 weights of other shapes .*\[5, 4\] instead of \[5, 9\]"),
    ],
)
def test_decoders_that_do_not_fit_are_refused(prior, shapes, message):
    with pytest.raises(UserError, match=message):
        check_decoders(weights(), [weights("prior", **prior)], shapes)


def test_a_message_lists_some_of_many_names():
    shapes = {f"layers.{layer}.mlp.gate_proj.weight": (5, 4) for layer in range(6)}
    with pytest.raises(UserError) as caught:
        check_decoders(weights(), [], shapes)
    assert "lacks 6 of the 6" in str(caught.value)
    assert "layers.3.mlp.gate_proj.weight, …" in str(caught.value)
    assert "layers.4" not in str(caught.value)
