import pytest
import torch

from lit_vlm.functional.entropy_profile import EntropyProfile, PositionBins

NAN = float("nan")
ENTROPIES = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 5.0, NAN, NAN]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def test_relative_bins_cut_each_completion_by_itself():
    # Halves of four tokens and of two.
    assert PositionBins(2)(MASK)[MASK.bool()].tolist() == [0, 0, 1, 1, 0, 1]
    # A completion of fewer tokens than bins leaves some empty.
    assert PositionBins(4)(MASK)[1, :2].tolist() == [0, 2]
    assert PositionBins(4)(torch.ones(1, 9, dtype=torch.long)).tolist() == [[0, 0, 0, 1, 1, 2, 2, 3, 3]]


def test_absolute_bins_count_tokens_and_the_last_takes_the_rest():
    assert PositionBins(2, 1)(MASK)[0].tolist() == [0, 1, 1, 1]
    assert PositionBins(3, 2)(torch.ones(1, 9, dtype=torch.long)).tolist() == [[0, 0, 1, 1, 2, 2, 2, 2, 2]]


def test_the_figures_are_those_of_the_tokens_that_count():
    profile = EntropyProfile.of(ENTROPIES, MASK, PositionBins(2), threshold=1.0)
    # 0, 1, 2, 3, 1, 5.
    assert (profile.tokens, profile.total, profile.squares) == (6, 12, 40)
    assert profile.mean == 2.0
    # 2, 3 and 5; what equals the threshold is not above it.
    assert profile.high_share == 0.5
    # (0 + 1 + 1) / 3 and (2 + 3 + 5) / 3.
    assert profile.course() == pytest.approx([2 / 3, 10 / 3])
    assert profile.histogram.sum() == 6
    assert EntropyProfile.of(ENTROPIES, MASK, PositionBins(2)).high_share == 0


@pytest.mark.parametrize("positions", [PositionBins(3), PositionBins(3, 1)])
def test_profiles_of_parts_add_up_to_that_of_the_whole(positions):
    whole = EntropyProfile.of(ENTROPIES, MASK, positions, 1.0)
    parts = [EntropyProfile.of(ENTROPIES[row : row + 1], MASK[row : row + 1], positions, 1.0) for row in (0, 1)]
    assert torch.equal(whole.values, (parts[0] + parts[1]).values)
    assert torch.equal((whole + EntropyProfile.empty(3)).values, whole.values)


def test_no_completions_give_an_empty_profile():
    none = EntropyProfile.of(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.long), PositionBins(2), 1.0)
    assert torch.equal(none.values, EntropyProfile.empty(2).values)
    assert none.course() == [None, None]
