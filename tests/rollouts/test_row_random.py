import torch

from lit_vlm.rollouts.row_random import BITS, random_bits, row_seeds, scaled_bits

CPU = torch.device("cpu")


def test_numbers_are_those_of_splitmix():
    # The reference: a generator of 64 bits that adds its increment and mixes, in Python's own whole numbers.
    def reference(seed, step):
        state = (seed + (step + 1) * 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return (state ^ (state >> 31)) >> (64 - BITS)

    seeds = row_seeds([0, 1, 2**62], 3, 3, CPU)
    for step in (0, 1, 2, 1000, 10**6):
        assert random_bits(seeds, step).tolist() == [reference(seed % 2**64, step) for seed in seeds.tolist()]
    # The first number of the published generator for seed 0.
    assert random_bits(torch.zeros(1, dtype=torch.int64), 0).tolist() == [0xE220A8397B1DCDAF >> (64 - BITS)]


def test_a_row_has_the_same_numbers_in_any_company():
    seeds = row_seeds(range(20), 20, 4, CPU)
    order = torch.randperm(len(seeds), generator=torch.Generator().manual_seed(0))[:7]
    assert torch.equal(random_bits(seeds[order], 5), random_bits(seeds, 5)[order])
    assert torch.equal(row_seeds([3, 4], 2, 2, CPU), row_seeds([3, 4], 2, 8, CPU).view(2, 8)[:, :2].flatten())
    assert len(set(seeds.tolist())) == len(seeds)


def test_numbers_are_uniform_over_rows_and_steps_and_not_related():
    seeds = row_seeds(range(250), 250, 8, CPU)
    drawn = torch.stack([random_bits(seeds, step) for step in range(50)]).double() / 2**BITS  # (50, 2000)
    assert 0 <= float(drawn.min()) < 1e-3
    assert 1 - 1e-3 < float(drawn.max()) < 1
    counts = torch.histc(drawn.flatten(), 100, 0, 1)
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 50 < chi_square < 170  # 99 degrees of freedom: beyond 165 once in 30,000 times
    for other in (drawn.roll(1, 0), drawn.roll(1, 1), drawn.roll(8, 1)):
        assert abs(float(torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1])) < 0.015


def test_scaling_is_exact():
    generator = torch.Generator().manual_seed(0)
    bits = torch.cat([torch.tensor([0, 2**BITS - 1]), torch.randint(2**BITS, (500,), generator=generator)])
    for total in (1, 7, 2**31 + 1, 2**40, 2**41 - 1, 2**43 - 1):
        found = scaled_bits(bits, torch.full_like(bits, total)).tolist()
        assert found == [value * total >> BITS for value in bits.tolist()]
        assert found[0] == 0
        assert found[1] <= total - 1
