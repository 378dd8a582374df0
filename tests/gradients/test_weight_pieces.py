import pytest
import torch

from lit_vlm.gradients.weight_pieces import own_copy, piece_of
from tests.paradigms.processes import run_script

# Sizes that two ranks cannot share evenly, and a bias that one of them may hold nothing of.
SHARDED = """
import sys

sys.path.insert(0, {root!r})

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import init_device_mesh

from lit_vlm.gradients.attached_bias import AttachedBias, BiasedWeight
from lit_vlm.gradients.weight_pieces import own_copy, piece_of
from lit_vlm.interfaces.weights import LowRankFactors
from lit_vlm.models.trained_weights import trained_weights


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(5, 7)
        self.inner = nn.Linear(5, 3, bias=False)
        self.outer = nn.Linear(3, 7, bias=False)

    def forward(self, x):
        return self.plain(x) + 2.0 * self.outer(self.inner(x))


def listed(model, kind):
    # What FSDP wraps holds the model within it, as a LightningModule does.
    return trained_weights(model.module[0], "fsdp1", model) if kind == "fsdp1" else trained_weights(model)


def biased(weights):
    generator = torch.Generator().manual_seed(3)
    directions = {{name: torch.randn(shape, generator=generator) for name, shape in
                   (("plain.weight", (7, 5)), ("plain.bias", (7,)), ("adapted", (7, 5)))}}
    found = []
    for name in ("plain.weight", "plain.bias"):
        piece = piece_of(weights[name].parameter, weights[name].piece)
        direction = own_copy(piece.of(directions[name]), weights[name].parameter, torch.float32)
        found.append(BiasedWeight(name, weights[name].parameter, piece, direction, 0.7))
    inner, outer = weights["inner.weight"], weights["outer.weight"]
    factors = LowRankFactors(inner.parameter, outer.parameter, 2.0, inner.piece, outer.piece)
    piece = piece_of(outer.parameter, outer.piece)
    direction = own_copy(directions["adapted"][piece.rows()], outer.parameter, torch.float32)
    return [*found, BiasedWeight("adapted", factors, piece, direction, 0.7)]


def train(rank, kind, address, out):
    if kind != "single":
        dist.init_process_group("gloo", init_method=f"file://{{address}}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Layer()
    if kind == "fsdp2":
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    elif kind == "fsdp1":
        model = FullyShardedDataParallel(nn.Sequential(model), use_orig_params=True, device_id=torch.device("cpu"))
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    whole = {{}}
    for step in range(2):
        own = x if kind == "single" else x[3 * rank : 3 * rank + 3]
        model.zero_grad()
        model(own).square().mean().backward()
        weights = {{one.name: one for one in listed(model, kind)}}
        attached = AttachedBias(biased(weights), "adaptive_cosine")
        figures = attached({{}})
        for name, one in weights.items():
            gradient = one.parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(one.parameter)
            whole[f"{{step}}/{{name}}"] = piece_of(one.parameter, one.piece).whole(gradient).clone()
            with torch.no_grad():
                if one.parameter.grad is not None:
                    one.parameter.sub_(0.1 * one.parameter.grad)
        whole |= {{f"{{step}}/{{name}}": value for name, value in figures.items()}}
    kept = sum(one.direction.numel() for one in attached._weights)
    kept = torch.tensor([kept])
    if kind != "single":
        every = [torch.zeros_like(kept) for _ in range(2)]
        dist.all_gather(every, kept)
        kept = torch.cat(every)
    if rank == 0:
        torch.save({{**whole, "kept": kept}}, out)
    if kind != "single":
        dist.destroy_process_group()


if __name__ == "__main__":
    kind, out = sys.argv[1:]
    if kind == "single":
        train(0, kind, None, out)
    else:
        multiprocessing.spawn(train, args=(kind, out + ".store", out), nprocs=2)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run_script(SHARDED, tmp_path_factory.mktemp("single") / "single.pt", "single")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_weights_that_are_cut_up_get_the_gradients_of_whole_ones(alone, tmp_path, kind):
    found = run_script(SHARDED, tmp_path / "cut.pt", kind)
    assert found.keys() == alone.keys()
    for name in alone.keys() - {"kept"}:
        torch.testing.assert_close(found[name], alone[name], atol=1e-6, rtol=1e-5, msg=name)
    # Each rank keeps its share of the directions, and together they keep them once.
    assert int(found["kept"].sum()) == int(alone["kept"])
    assert int(found["kept"].max()) < int(alone["kept"])


def test_a_whole_tensor_is_its_own_piece():
    parameter = torch.nn.Parameter(torch.ones(4, 2))
    piece = piece_of(parameter, None)
    assert not piece.is_cut
    assert piece.shape == (4, 2)
    assert piece.of(parameter) is parameter
    assert piece.local(parameter) is parameter
    assert torch.equal(piece.whole(parameter), parameter)
    assert piece.rows() == slice(0, 4)
    assert piece.total(torch.tensor([2.0])).tolist() == [2.0]


def test_a_copy_lets_go_of_what_it_was_cut_out_of():
    whole = torch.arange(6.0).view(3, 2)
    copy = own_copy(whole[1:2], whole, torch.bfloat16)
    assert copy.tolist() == [[2.0, 3.0]]
    assert copy.dtype is torch.bfloat16
    assert copy.untyped_storage().nbytes() == 4
