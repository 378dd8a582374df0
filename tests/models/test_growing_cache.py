import pytest
import torch
from transformers import DynamicCache

from lit_vlm.models import growing_cache as module
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.growing_cache import GrowingLayer, can_reorder, growing_cache, keep_rows, repeat_rows


@pytest.fixture(params=["qwen2", "gemma3"])
def configuration(request, family_folder):
    backbone = Backbone(str(family_folder(request.param)))
    return backbone.load_model(backbone.load_encoder()).model.config


@pytest.mark.parametrize("room", [1, 3, 64])
def test_it_holds_what_transformers_cache_holds(room, configuration, monkeypatch):
    monkeypatch.setattr(module, "ROOM", room)
    generator = torch.Generator().manual_seed(0)
    ours, theirs = growing_cache(configuration), DynamicCache(config=configuration)
    # Gemma's layers are sliding, and stay transformers' own.
    assert {isinstance(layer, GrowingLayer) for layer in ours.layers} == {configuration.model_type == "qwen2"}

    def step(rows, tokens):
        for layer in range(len(ours.layers)):
            new = torch.randn(2, rows, 2, tokens, 4, generator=generator).unbind(0)
            for found, expected in zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True):
                assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)

    step(3, 5)
    repeat_rows(ours, 3, 4)
    theirs.batch_repeat_interleave(4)
    step(12, 1)
    for rows in ([0, 11, 2, 3, 4, 10, 6, 7, 8], [0, 1, 2, 8, 4, 5, 6], [5, 1], [0]):
        keep_rows(ours, torch.tensor(rows))
        theirs.batch_select_indices(torch.tensor(rows))
        for _ in range(3):
            step(len(rows), 1)


def test_rows_that_leave_are_overwritten_and_memory_comes_back():
    layer = GrowingLayer()
    states = torch.randn(8, 1, 3, 2)
    layer.update(states, states)
    layer.repeat_rows(1)
    block = layer._blocks[0]
    none = torch.zeros(0, dtype=torch.int64)
    layer.keep_rows(torch.tensor([0, 7, 2, 3, 4]), torch.tensor([1]), torch.tensor([7]))
    assert layer._blocks[0] is block
    assert torch.equal(layer.keys, states[[0, 7, 2, 3, 4]])
    layer.keep_rows(torch.arange(3), none, none)
    assert len(layer._blocks[0]) == 3
    assert torch.equal(layer.values, states[[0, 7, 2]])


def test_what_a_cache_must_be_able_to_do(configuration):
    cache = growing_cache(configuration)
    assert can_reorder(cache)
    cache.layers.append(object())
    assert not can_reorder(cache)
    assert not can_reorder((torch.zeros(1),))
