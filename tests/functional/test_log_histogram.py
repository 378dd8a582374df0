import pytest
import torch

from lit_vlm.functional.log_histogram import (
    BINS,
    GROWTH,
    HIGHEST,
    LOWEST,
    histogram_quantile,
    log_histogram,
    upper_edges,
)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_quantiles_are_within_two_percent_of_the_exact_ones(share, spread):
    generator = torch.Generator().manual_seed(0)
    values = torch.exp(spread * torch.randn(4001, generator=generator, dtype=torch.float64) - 3).clamp(max=19)
    exact = float(values.sort().values[max(0, round(share * 4001) - 1)])
    assert histogram_quantile(log_histogram(values), share) == pytest.approx(exact, rel=0.021)


def test_counts_of_batches_add_up_to_those_of_all():
    values = torch.rand(3, 50, generator=torch.Generator().manual_seed(1)) * 5
    counts = log_histogram(values)
    assert counts.sum() == 150
    assert torch.equal(counts, sum(log_histogram(row) for row in values))


def test_values_lie_between_the_edges_of_their_bin():
    edges = upper_edges()
    assert edges[0] == LOWEST
    assert edges[-2] >= HIGHEST
    for value in (1.5e-6, 0.01, 0.7, 3.0, 19.9):
        place = int(log_histogram(torch.tensor(value)).argmax())
        assert edges[place - 1] <= value * 1.000001
        assert value <= edges[place] * 1.000001
        assert edges[place] / edges[place - 1] == pytest.approx(GROWTH)


def test_what_lies_outside_the_bins_falls_into_the_outermost():
    counts = log_histogram(torch.tensor([0.0, 1e-9, 50.0, float("inf")]))
    assert (counts[0], counts[-1], counts.sum()) == (2, 2, 4)
    assert histogram_quantile(counts, 0.5) == 0.0
    assert histogram_quantile(counts, 1.0) >= HIGHEST


def test_an_empty_histogram_has_no_quantiles():
    counts = log_histogram(torch.zeros(0))
    assert counts.shape == (BINS,)
    with pytest.raises(ValueError, match="empty histogram"):
        histogram_quantile(counts, 0.5)
