import pytest
import torch

from lit_vlm.functional.loss_aggregation import token_weights
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import PolicyTotals

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
TOTALS = PolicyTotals(tokens=6, sequences=3, active_sequences=2, max_tokens=8)


@pytest.mark.parametrize(
    ("aggregation", "empty", "first", "second"),
    [
        ("grpo", "count", 1 / 12, 1 / 6),
        ("grpo", "exclude", 1 / 8, 1 / 4),
        ("bnpo", "count", 1 / 6, 1 / 6),
        ("dapo", "exclude", 1 / 6, 1 / 6),
        ("dr_grpo", "count", 1 / 24, 1 / 24),
        ("dr_grpo", "exclude", 1 / 16, 1 / 16),
    ],
)
def test_weights_of_tokens(aggregation, empty, first, second):
    weights = token_weights(MASK, TOTALS, aggregation, empty)
    expected = MASK * torch.tensor([first, second, 9.0])[:, None]
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("aggregation", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_nothing_to_weigh_gives_zeros(aggregation):
    weights = token_weights(torch.zeros(2, 3), PolicyTotals(0, 0, 0, 4), aggregation, "exclude")
    assert torch.equal(weights, torch.zeros(2, 3))
    assert token_weights(torch.zeros(0, 0), PolicyTotals(0, 0, 0, 4), aggregation).shape == (0, 0)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="dr_grpo divides by the length limit .* max_tokens is 0"):
        token_weights(MASK, PolicyTotals(6, 3, 2, 0), "dr_grpo")
    with pytest.raises(UserError, match="aggregation is 'mean'; it must be one of grpo"):
        token_weights(MASK, TOTALS, "mean")
