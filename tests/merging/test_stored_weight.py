"""Weights as the files hold them, piece by piece."""

import pytest
import torch

from lit_vlm.functional.piece_threads import PieceThreads
from lit_vlm.functional.recycled_memory import RecycledMemory
from lit_vlm.functional.task_vectors import whole
from lit_vlm.functional.weight_names import weight_place
from lit_vlm.merging.stored_weight import StoredDonor, StoredWeight

PLACE = weight_place("model.layers.0.mlp.up_proj.weight", 1)


def drawn(dtype, seed, shape=(300, 700)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def donor(own, base=None, *, is_vector=False, needs_value=False):
    return StoredDonor(0.5, 0.25, 7, own, base, is_vector, needs_value)


def counted(tensor, calls):
    """Gives a tensor in pieces, and notes which."""

    def piece(start, stop):
        calls.append((start, stop))
        return tensor.flatten()[start:stop]

    return piece


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_whole_and_pieces_are_float32_of_what_is_stored(dtype):
    target, own, other = (drawn(dtype, seed) for seed in range(3))
    stored, first, second = (whole(tensor) for tensor in (target, own, other))
    donors = [donor(first, stored, needs_value=True), donor(second, is_vector=True), donor(stored, needs_value=True)]
    weight = StoredWeight(PLACE, target.shape, stored, donors)
    with PieceThreads() as threads:
        found = weight.whole(RecycledMemory(), threads)
    piece = weight.piece(100, 5000)
    assert torch.equal(found.target, target.float())
    first, second, third = found.donors
    assert torch.equal(first.value, own.float())
    assert torch.equal(first.delta, own.float() - target.float())
    assert torch.equal(second.delta, other.float())
    assert second.value is None
    assert torch.equal(third.value, target.float())
    assert third.delta is None
    for part, all_of_it in zip(piece.donors, found.donors, strict=True):
        assert (part.weight, part.density, part.seed) == (0.5, 0.25, 7)
        for name in ("value", "delta"):
            small, large = getattr(part, name), getattr(all_of_it, name)
            assert (small is None) == (large is None)
            assert small is None or torch.equal(small, large.flatten()[100:5000])
    assert torch.equal(piece.target, found.target.flatten()[100:5000])


def test_what_is_stored_stays_as_it_is():
    target, own = drawn(torch.float32, 0), drawn(torch.float32, 1)
    before = target.clone(), own.clone()
    stored = whole(target)
    weight = StoredWeight(PLACE, target.shape, stored, [donor(whole(own), stored, needs_value=True)])
    with PieceThreads() as threads:
        found = weight.whole(RecycledMemory(), threads)
    found.target.zero_()
    found.donors[0].delta.zero_()
    assert torch.equal(target, before[0])
    assert torch.equal(own, before[1])


def test_what_several_have_in_common_is_read_once():
    target, own = drawn(torch.float32, 0), drawn(torch.float32, 1)
    calls = []
    stored = counted(target, calls)
    weight = StoredWeight(PLACE, target.shape, stored, [donor(whole(own), stored), donor(stored, is_vector=True)])
    assert not calls
    weight.piece(10, 20)
    assert calls == [(10, 20)]
