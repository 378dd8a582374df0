import pytest
import torch

from lit_vlm.functional.chunked_log_probs import token_log_probs
from lit_vlm.interfaces.batches import PromptBatch, StepTotals, TokenScores
from lit_vlm.interfaces.records import IGNORED_LABEL
from lit_vlm.objectives.sft_loss import SFTLoss

# The SFT card's Check, computed in float64.
LOGITS = torch.tensor(
    [
        [[1, 0, 0], [0, 2, 0], [0.5, 0.5, 0], [1, 1, 1]],
        [[2, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]],
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([[-100, 1, 2, 0], [-100, -100, 2, -100]])


def scores_of(logits, labels):
    targets = labels[:, 1:]
    rows, columns = (targets != IGNORED_LABEL).nonzero(as_tuple=True)
    chosen = targets[rows, columns]
    picked = logits[:, :-1][rows, columns]
    return TokenScores(token_log_probs(picked, chosen), rows, picked.argmax(-1) == chosen)


def totals_of(labels):
    return PromptBatch(labels, torch.ones_like(labels), {}, labels=labels).count()


@pytest.mark.parametrize(
    ("reduction", "expected"), [("token_mean", 1.32511), ("seq_mean", 1.06722), ("sample_sum", 2.65023)]
)
def test_the_check_of_the_card_is_reproduced(reduction, expected):
    loss = SFTLoss(reduction=reduction)(scores_of(LOGITS, LABELS), totals_of(LABELS))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_micro_batches_of_a_step_share_one_denominator():
    # Summed losses 6.0 over 3 tokens and 0.5 over 1 token: 6.5 / 4 = 1.625, not (2.0 + 0.5) / 2 = 1.25.
    totals = StepTotals(labels=4, sequences=2)
    first = TokenScores(torch.tensor([-1.0, -2.0, -3.0]), torch.zeros(3, dtype=torch.long), torch.zeros(3).bool())
    second = TokenScores(torch.tensor([-0.5]), torch.zeros(1, dtype=torch.long), torch.zeros(1).bool())
    loss = SFTLoss()
    assert (loss(first, totals) + loss(second, totals)).item() == pytest.approx(1.625)


@pytest.mark.parametrize("reduction", ["token_mean", "seq_mean", "sample_sum"])
def test_shares_of_rows_add_up_to_the_loss_of_the_batch(reduction):
    loss = SFTLoss(reduction=reduction)
    totals = totals_of(LABELS)
    parts = sum(loss(scores_of(LOGITS[row : row + 1], LABELS[row : row + 1]), totals) for row in range(2))
    assert parts.item() == pytest.approx(loss(scores_of(LOGITS, LABELS), totals).item())


@pytest.mark.parametrize("reduction", ["token_mean", "seq_mean", "sample_sum"])
def test_a_batch_without_labels_gives_zero_with_a_graph(reduction):
    log_probs = torch.zeros(0, requires_grad=True)
    loss = SFTLoss(reduction=reduction)(
        TokenScores(log_probs, torch.zeros(0, dtype=torch.long), torch.zeros(0).bool()), StepTotals(0, 0)
    )
    assert loss.item() == 0
    loss.backward()


def test_longer_sequences_weigh_more_only_per_token():
    long = TokenScores(torch.tensor([-1.0] * 9 + [-3.0]), torch.tensor([0] * 9 + [1]), torch.zeros(10).bool())
    totals = StepTotals(10, 2)
    assert SFTLoss()(long, totals).item() == pytest.approx(1.2)
    assert SFTLoss(reduction="seq_mean")(long, totals).item() == pytest.approx(2.0)


def weighted(log_probs, weights):
    """Rows of two tokens each, with their weights."""
    rows = torch.arange(len(log_probs)) // 2
    return TokenScores(log_probs, rows, torch.zeros(len(log_probs)).bool(), torch.tensor(weights))


def test_rises_check_is_reproduced_by_a_mean_over_weighted_sequences():
    # CE of the rows 1.2 and 0.8 (token means), rewards 0 and 1, temperature 0.4: exp(0) = 1, exp(2.5) = 12.1825;
    # (1 * 1.2 + 12.1825 * 0.8) / 2 = 5.473.
    weights = torch.exp(torch.tensor([0.0, 1.0]) / 0.4).tolist()
    assert weights == pytest.approx([1.0, 12.1825], abs=1e-4)
    scores = weighted(torch.tensor([-1.0, -1.4, -0.5, -1.1]), weights)
    assert SFTLoss(reduction="seq_mean")(scores, StepTotals(4, 2)).item() == pytest.approx(5.473, abs=1e-3)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", (1 * 3.0 + 2 * 1.0) / 4),  # row sums 3 and 1 over 4 tokens
        ("seq_mean", (1 * 1.5 + 2 * 0.5) / 2),
        ("sample_sum", (1 * 3.0 + 2 * 1.0) / 2),
    ],
)
def test_weights_multiply_rows_and_leave_the_denominator(reduction, expected):
    scores = weighted(torch.tensor([-1.0, -2.0, -0.25, -0.75]), [1.0, 2.0])
    assert SFTLoss(reduction=reduction)(scores, StepTotals(4, 2)).item() == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["token_mean", "seq_mean", "sample_sum"])
def test_gradients_of_a_row_are_multiplied_by_its_weight(reduction):
    gradients = []
    for weights in (None, [0.0, 12.0]):
        log_probs = torch.tensor([-1.0, -2.0, -0.25, -0.75], requires_grad=True)
        scores = weighted(log_probs, weights or [1.0, 1.0])
        SFTLoss(reduction=reduction)(scores, StepTotals(4, 2)).backward()
        gradients.append(log_probs.grad)
    plain, scaled = gradients
    torch.testing.assert_close(scaled, plain * torch.tensor([0.0, 0.0, 12.0, 12.0]))


@pytest.mark.parametrize("reduction", ["token_mean", "seq_mean", "sample_sum"])
def test_weights_of_one_change_nothing(reduction):
    loss, log_probs = SFTLoss(reduction=reduction), torch.tensor([-1.0, -2.0, -0.25, -0.75])
    alone = TokenScores(log_probs, torch.tensor([0, 0, 1, 1]), torch.zeros(4).bool())
    assert loss(weighted(log_probs, [1.0, 1.0]), StepTotals(4, 2)) == loss(alone, StepTotals(4, 2))


def test_a_batch_without_labels_is_zero_whatever_its_rows_weigh():
    log_probs = torch.zeros(0, requires_grad=True)
    scores = TokenScores(log_probs, torch.zeros(0, dtype=torch.long), torch.zeros(0).bool(), torch.tensor([3.0]))
    assert SFTLoss()(scores, StepTotals(0, 0)).item() == 0
