import pytest
import torch

from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.layer_sizes import LinearInput, model_sizes, tensor_bytes
from lit_vlm.models.quantisation import QuantisationSettings


@pytest.fixture
def sizes_of(random_tiny_folder, random_tiny_encoder):
    def sizes(**options):
        policy = Backbone(str(random_tiny_folder), **options).load_model(random_tiny_encoder)
        return policy, model_sizes(policy.model, policy.parts)

    return sizes


def test_a_layer_is_told_by_its_modules(sizes_of):
    policy, sizes = sizes_of()
    text, seen = policy.model.config.text_config, policy.model.config.vision_config
    layer = sizes.language.layers[0]
    assert len(sizes.language.layers) == text.num_hidden_layers
    assert (layer.width, layer.queries, layer.feed_forward) == (
        text.hidden_size,
        text.hidden_size,
        text.intermediate_size,
    )
    assert (layer.heads, layer.gated, layer.fused) == (text.num_attention_heads, True, False)
    assert layer.keys == text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    assert layer.normed == ((text.hidden_size, True, True),) * 2
    # Queries, keys and values read the same numbers, and so do gate and up.
    assert [given.readers for given in layer.inputs] == [3, 2, 1]
    assert [given.width for given in layer.inputs] == [text.hidden_size, text.hidden_size, text.intermediate_size]
    assert sizes.vision is not None
    assert len(sizes.vision.layers) == seen.depth
    assert sizes.vision.layers[0].fused


def test_every_byte_belongs_to_a_part(sizes_of):
    policy, sizes = sizes_of()
    parameters = sum(value.numel() * 4 for value in policy.model.parameters())
    buffers = sum(value.numel() * value.element_size() for value in policy.model.buffers())
    assert sum(sizes.weights.values()) == parameters + buffers
    assert sum(sizes.trained.values()) == parameters
    assert sizes.largest_trained == max(value.numel() * 4 for value in policy.model.parameters())


def test_frozen_parts_have_no_graph(sizes_of):
    _, sizes = sizes_of(train_parts=("language",))
    assert (sizes.language.has_graph, sizes.vision.has_graph) == (True, False)
    _, sizes = sizes_of(train_parts=("projector",))
    assert (sizes.language.has_graph, sizes.vision.has_graph) == (True, False)
    assert sizes.language.layers[0].inputs == ()
    assert not sizes.language.layers[0].output_reader


def test_an_adapter_reads_what_its_layer_reads(sizes_of):
    _, sizes = sizes_of(adapter=AdapterSettings(rank=3))
    layer = sizes.language.layers[0]
    assert layer.inputs[0] == LinearInput(width=layer.width, readers=3, adapters=3, ranks=9)
    assert layer.normed[0][1] is False
    assert sizes.adapter_item_size == 4


def test_checkpointing_and_attention_are_seen(sizes_of):
    _, sizes = sizes_of(gradient_checkpointing=True, attention="eager")
    assert sizes.language.checkpointed
    assert sizes.language.quadratic
    _, sizes = sizes_of()
    assert not sizes.language.checkpointed
    assert not sizes.language.quadratic


def test_four_bit_weights_count_their_bits(sizes_of):
    _, whole = sizes_of(adapter=AdapterSettings(rank=2))
    _, few = sizes_of(adapter=AdapterSettings(rank=2), quantisation=QuantisationSettings(kind="nf4"))
    assert few.weights["language"] < 0.6 * whole.weights["language"]
    assert tensor_bytes(torch.zeros(3, dtype=torch.bfloat16)) == 6
