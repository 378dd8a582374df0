from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

from lit_vlm.models.generating import any_of_all_ranks, context_tokens, end_token_ids, evaluating, is_sharded


@pytest.mark.parametrize(("given", "expected"), [(5, (5,)), ([5, 7], (5, 7)), (None, ())])
def test_end_tokens_are_those_of_the_generation_configuration(given, expected, random_tiny_model):
    model = random_tiny_model.model
    model.generation_config.eos_token_id = given
    assert end_token_ids(model) == expected
    assert random_tiny_model.end_token_ids == expected


def test_padding_that_ends_completions_may_come(random_tiny_model):
    padding, media = random_tiny_model.padding_id, random_tiny_model.media_token_ids
    assert random_tiny_model.unsampled_token_ids == (*media, padding)
    random_tiny_model.model.generation_config.eos_token_id = [padding, 9]
    assert random_tiny_model.unsampled_token_ids == tuple(media)


def test_the_context_is_that_of_the_decoder(random_tiny_model):
    assert context_tokens(random_tiny_model.model) == random_tiny_model.context_tokens == 2048
    without = SimpleNamespace(config=SimpleNamespace(get_text_config=SimpleNamespace))
    assert context_tokens(without) is None


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_returns(mode):
    module = nn.Sequential(nn.Dropout()).train(mode)
    with evaluating(module):
        assert not module.training
        assert not module[0].training
        assert not torch.is_grad_enabled()
    assert module.training is module[0].training is mode
    assert torch.is_grad_enabled()


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_weights_in_pieces_are_known(one_rank):
    module = nn.Linear(2, 2)
    assert not is_sharded(module)
    mesh = init_device_mesh("cpu", (1,))
    module.weight = nn.Parameter(DTensor.from_local(module.weight.data, mesh, [Replicate()]))
    assert is_sharded(module)
    assert any_of_all_ranks(True, torch.device("cpu"))
    assert not any_of_all_ranks(False, torch.device("cpu"))


def test_alone_a_rank_passes_while_it_has_rows(random_tiny_model):
    assert not is_sharded(random_tiny_model)
    assert random_tiny_model.any_rank(True)
    assert not random_tiny_model.any_rank(False)
