import pytest
import torch
from torch import Tensor

from lit_vlm.functional.task_vectors import (
    PIECE,
    Pieces,
    elected_sign,
    inner_product,
    inner_products,
    plus_agreeing,
    rescaling_factor,
    scaled,
    spans,
    weighted_sum,
    whole,
)


def joined(pieces: Pieces, like: Tensor) -> Tensor:
    return torch.cat([pieces(start, stop) for start, stop in spans(like.numel())]).view(like.shape)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_spans_cover_every_number_once(count: int):
    starts, stops = [start for start, _ in spans(count)], [stop for _, stop in spans(count)]
    assert [*starts, count] == [0, *stops]
    assert all(0 < stop - start <= PIECE for start, stop in spans(count))


def test_whole_and_scaled_give_the_tensor():
    tensor = random(3, PIECE // 2)
    assert torch.equal(joined(whole(tensor), tensor), tensor)
    assert torch.equal(joined(scaled(whole(tensor), 2.0), tensor), 2 * tensor)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 5), (2, PIECE)])
def test_a_weighted_sum_is_the_sum(shape: tuple[int, ...]):
    tensors = [random(*shape, seed=seed) for seed in range(3)]
    expected = 0.5 * tensors[0] - 2 * tensors[1] + tensors[2]
    got = weighted_sum([(whole(t), w) for t, w in zip(tensors, (0.5, -2.0, 1.0), strict=True)], like=tensors[0])
    torch.testing.assert_close(got, expected)


def test_sums_of_transposed_tensors_keep_their_places():
    tensor = random(4, 6).T
    assert torch.equal(weighted_sum([(whole(tensor), 1.0)], like=tensor), tensor)
    assert torch.equal(plus_agreeing(tensor, [whole(torch.zeros(6, 4))], [1.0]), tensor)


def test_the_sign_of_the_sum_is_elected_and_0_elects_plus():
    tensors = [torch.tensor([1.0, 0.5, -3.0, 0.0]), torch.tensor([-1.0, -0.7, 1.0, 0.0])]
    assert elected_sign(tensors).tolist() == [1, -1, -1, 1]
    assert tensors[0].tolist() == [1.0, 0.5, -3.0, 0.0]


def test_agreeing_differences_are_averaged_by_their_own_weights():
    # Weighted: [2, -0.4], [1, 0.6], [-1, 0.9]; sums 2 and 1.1, so + twice.
    deltas = [torch.tensor([1.0, -0.2]), torch.tensor([1.0, 0.6]), torch.tensor([-1.0, 0.9])]
    pieces, weights = [whole(delta) for delta in deltas], [2.0, 1.0, 1.0]
    torch.testing.assert_close(plus_agreeing(torch.zeros(2), pieces, weights), torch.tensor([1.0, 0.75]))
    summed = plus_agreeing(torch.zeros(2), pieces, weights, normalize=False, scale=0.5)
    torch.testing.assert_close(summed, torch.tensor([1.5, 0.75]))


def test_where_nothing_agrees_nothing_is_added():
    base = random(5)
    assert torch.equal(plus_agreeing(base, [whole(torch.zeros(5))] * 2, [1.0, 1.0]), base)


def test_election_does_not_depend_on_where_pieces_end():
    base, deltas = random(PIECE + 7), [random(PIECE + 7, seed=seed) for seed in (1, 2, 3)]
    got = plus_agreeing(base, [whole(delta) for delta in deltas], [1.0, 0.5, 2.0])
    tail = plus_agreeing(base[-9:], [whole(delta[-9:]) for delta in deltas], [1.0, 0.5, 2.0])
    assert torch.equal(got[-9:], tail)


def test_what_is_given_stays_as_it_is():
    base, deltas = random(64), [random(64, seed=seed) for seed in (1, 2)]
    copies = [base.clone(), *(delta.clone() for delta in deltas)]
    plus_agreeing(base, [whole(delta) for delta in deltas], [1.0, 0.5])
    weighted_sum([(whole(base), 1.0), *((whole(delta), 2.0) for delta in deltas)], like=base)
    assert all(torch.equal(now, before) for now, before in zip([base, *deltas], copies, strict=True))


def test_factors_of_rescaling():
    delta, kept = torch.tensor([0.2, -0.4, 1.0, 0.4]), whole(torch.tensor([0.2, 0.0, 1.0, 0.0]))
    assert rescaling_factor(delta, kept, 0.5, "none") == 1.0
    assert rescaling_factor(delta, kept, 0.5, "inverse_density") == 2.0
    assert rescaling_factor(delta, kept, 0.5, "l1") == pytest.approx(2.0 / 1.2)
    assert rescaling_factor(delta, kept, 1.0, "inverse_density") == 1.0


@pytest.mark.parametrize("nothing", [0.0, 1e-9])
def test_norms_of_almost_0_rescale_nothing(nothing: float):
    assert rescaling_factor(torch.ones(4), whole(torch.full((4,), nothing)), 0.5, "l1") == 1.0
    assert rescaling_factor(torch.full((4,), nothing), whole(torch.zeros(4)), 0.5, "l1") == 1.0


def test_inner_products_are_exact_and_do_not_overflow():
    first, second = random(3, PIECE), random(3, PIECE, seed=1)
    expected = (first.double() * second.double()).sum(-1)
    torch.testing.assert_close(inner_product(first, second, per_row=True), expected)
    torch.testing.assert_close(inner_product(first, second), expected.sum())
    assert inner_product(torch.full((2,), 1e30), torch.full((2,), 1e30)).item() == pytest.approx(2e60)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5)])
def test_inner_products_of_any_shape(shape: tuple[int, ...]):
    tensor = random(*shape)
    rows = inner_product(tensor, tensor, per_row=True)
    assert rows.shape == (max(1, tensor.numel() // (shape[-1] if shape else 1)),)
    assert rows.sum().item() == pytest.approx(inner_product(tensor, tensor).item())


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_products_of_all_pairs_are_symmetric_and_exact_at_any_size(size: float):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(PIECE + 7, generator=generator) * size for _ in range(3)]
    found = inner_products(tensors)
    stacked = torch.stack(tensors).double()
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found / size**2, stacked @ stacked.T / size**2, rtol=1e-6, atol=0.1)


def test_products_of_nothing_are_0():
    assert inner_products([torch.zeros(0), torch.zeros(0)]).tolist() == [[0.0, 0.0], [0.0, 0.0]]
