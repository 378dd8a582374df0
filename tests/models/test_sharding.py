from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.generation_settings import GenerationSettings
from lit_vlm.models.sharding import is_cut, local_part, part_of_whole, shard, whole, whole_of, whole_state
from lit_vlm.models.stand_in import StandIn


@pytest.fixture
def mesh():
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def cut(policy, encoder, mesh, compute_dtype=None):
    policy.cut_up(mesh, compute_dtype, StandIn.of_encoder(encoder))
    return policy


def test_a_policy_that_is_cut_up_scores_generates_and_learns_as_before(
    random_tiny_folder, random_tiny_encoder, mesh, make_sample
):
    batch = random_tiny_encoder.encode([make_sample("a", "1"), make_sample("b", "2", images=0)])
    prompts = random_tiny_encoder.encode_prompts(batch.samples)
    results = []
    for is_sharded in (False, True):
        policy = Backbone(str(random_tiny_folder)).load_model(random_tiny_encoder).train()
        if is_sharded:
            cut(policy, random_tiny_encoder, mesh)
            assert is_cut(policy)
            assert all(isinstance(value, DTensor) for value in policy.parameters())
        ids = policy.generate(prompts, GenerationSettings(max_new_tokens=3))
        with policy.evaluating():
            before = policy.score(batch).log_probs
        scores = policy.score(batch).log_probs
        scores.sum().backward()
        gradients = {name: whole(value.grad) for name, value in policy.named_parameters() if value.grad is not None}
        results.append((ids, before, scores.detach(), gradients))
        assert not policy.is_gathered
    alone, sharded = results
    assert alone[0] == sharded[0]
    torch.testing.assert_close(sharded[1:], alone[1:], atol=1e-5, rtol=1e-4)


def test_blocks_are_pieces_and_the_rest_is_one(random_tiny_folder, random_tiny_encoder, mesh):
    backbone = Backbone(str(random_tiny_folder), adapter=AdapterSettings(parts=("vision", "language")))
    policy = cut(backbone.load_model(random_tiny_encoder), random_tiny_encoder, mesh)
    pieces = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    configuration = policy.model.config
    blocks = configuration.text_config.num_hidden_layers + configuration.vision_config.depth
    assert len(pieces) == 1 + blocks
    assert pieces[0] is policy
    trained = [name for name, value in policy.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("parts", [("vision", "language"), ("vision",)])
def test_blocks_go_backward_in_one_order_whether_a_row_has_an_image_or_none(
    random_tiny_folder, random_tiny_encoder, mesh, make_sample, parts
):
    # A block whose inputs need no gradient reduces its own ones at the end instead of in its turn, and one whose output
    # needs none is not gathered: ranks that differ in this wait for each other for ever.
    backbone = Backbone(str(random_tiny_folder), adapter=AdapterSettings(rank=2, parts=parts))
    policy = cut(backbone.load_model(random_tiny_encoder), random_tiny_encoder, mesh).train()
    needs = []
    first = policy.model.model.language_model.layers[0]
    first.register_forward_pre_hook(
        lambda _, inputs, options: needs.append((*inputs, options.get("hidden_states"))[0].requires_grad),
        with_kwargs=True,
    )
    for images in (1, 0):
        policy.score(random_tiny_encoder.encode([make_sample("a", "1", images=images)])).log_probs.sum().backward()
    assert needs == [True, True]
    with torch.no_grad():
        policy.score(random_tiny_encoder.encode([make_sample("a", "1", images=0)]))
    assert needs[2:] == [False]


def test_weights_lie_open_between_gather_and_the_last_release(
    random_tiny_model, random_tiny_encoder, mesh, make_sample
):
    policy = cut(random_tiny_model, random_tiny_encoder, mesh, torch.bfloat16)
    with policy.decoding():
        with policy.decoding():
            assert policy.is_gathered
        assert policy.is_gathered
        held = list(policy.parameters())
        assert all(not isinstance(value, DTensor) and value.dtype == torch.bfloat16 for value in held)
        policy.generate(random_tiny_encoder.encode_prompts([make_sample("a", "1")]), GenerationSettings(2))
        assert not any(isinstance(value, DTensor) for value in policy.parameters())
    assert all(isinstance(value, DTensor) and value.dtype == torch.float32 for value in policy.parameters())


def test_changed_weights_count_in_the_next_pass_without_gradients(
    random_tiny_model, random_tiny_encoder, mesh, make_sample
):
    policy = cut(random_tiny_model, random_tiny_encoder, mesh)
    batch = random_tiny_encoder.encode([make_sample("a", "1")])
    with policy.evaluating():
        first = policy.score(batch).log_probs
        for value in policy.parameters():
            local_part(value).mul_(1.5)
        assert (policy.score(batch).log_probs - first).abs().max() > 1e-3


def test_parts_and_wholes_belong_together(mesh):
    layer = nn.Linear(3, 4)
    expected = layer.weight.detach().clone()
    from torch.distributed.fsdp import fully_shard

    fully_shard(layer, mesh=mesh)
    weight = layer.weight
    assert torch.equal(whole(weight), expected)
    assert torch.equal(whole_of(local_part(weight.detach()), weight), expected)
    assert torch.equal(part_of_whole(expected, weight), local_part(weight))
    plain = torch.ones(2)
    assert whole(plain) is plain
    assert whole_of(plain, plain) is plain
    assert part_of_whole(plain, plain) is plain


def test_the_whole_state_saves_as_a_plain_model_does(random_tiny_folder, random_tiny_encoder, mesh, tmp_path):
    backbone = Backbone(str(random_tiny_folder))
    policy = backbone.load_model(random_tiny_encoder)
    expected = {name: value.clone() for name, value in policy.model.state_dict().items()}
    cut(policy, random_tiny_encoder, mesh, torch.bfloat16)
    assert whole_state(policy.model, only_trained=False, keep=False) == {}
    backbone.save(policy, tmp_path, whole_state(policy.model, only_trained=False, keep=True))
    saved = replace(backbone, checkpoint=str(tmp_path))
    random_tiny_encoder.processor.save_pretrained(tmp_path)
    found = saved.load_model(random_tiny_encoder).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_adapter_saves_as_one_of_a_plain_model_does(random_tiny_folder, random_tiny_encoder, mesh, tmp_path):
    backbone = Backbone(str(random_tiny_folder), adapter=AdapterSettings(rank=2))
    for place in ("plain", "cut"):
        policy = backbone.load_model(random_tiny_encoder, seed=3)
        state = None
        if place == "cut":
            cut(policy, random_tiny_encoder, mesh)
            state = whole_state(policy.model, only_trained=True, keep=True)
            assert all("lora_" in name for name in state)
        backbone.save(policy, tmp_path / place, state)
    plain, found = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("plain", "cut"))
    assert plain.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in plain.items())


def test_what_cannot_be_cut_up_is_refused(mesh):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

    with pytest.raises(UserError, match=r"a single number, of which this model has scale; give trainer\.strategy ddp"):
        shard(Scaled(), mesh, None, ())
    with pytest.raises(UserError, match="finds no blocks of layers in Linear"):
        shard(nn.Linear(2, 2), mesh, None, ())
