import pytest
import torch

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores
from lit_vlm.interfaces.rollouts import Loss
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.pair_figures import no_pairs, pair_figures


@pytest.fixture
def scores():
    """Two pairs, the second without a rejected completion."""
    return PairScores(
        policy=PairLogProbs(torch.tensor([-4.0, -6.0]), torch.tensor([-5.0, 0.0])),
        reference=PairLogProbs(torch.tensor([-5.0, -6.5]), torch.tensor([-4.0, 0.0])),
        chosen_tokens=torch.tensor([2, 3]),
        rejected_tokens=torch.tensor([5, 0]),
        weights=torch.ones(2),
        has_rejected=torch.tensor([True, False]),
        has_corrupted=torch.tensor([False, False]),
    )


def test_the_divergence_is_a_mean_over_the_tokens_of_all_completions(scores):
    figures = pair_figures(scores, Loss(torch.tensor(0.0)))
    # (-4 + 5) + (-6 + 6.5) + (-5 + 4) = 0.5, over 2 + 3 + 5 tokens.
    assert float(figures.per_token["kl"]) == pytest.approx(0.5)
    assert int(figures.tokens) == 10
    assert int(figures.pairs) == 1
    assert int(figures.per_pair["pair_accuracy"]) == 1


def test_terms_of_the_loss_are_kept_apart_from_figures_of_pairs(scores):
    objective = PreferenceLoss(nll_weight=0.5)
    coefficients = {name: item.value for name, item in objective.coefficients().items()}
    figures = pair_figures(scores, objective(scores, StepTotals(5, 2), coefficients))
    assert set(figures.per_sample) == {"preference_loss", "nll"}
    assert float(figures.per_pair["rewards/chosen"]) == pytest.approx(0.1)
    assert float(figures.per_pair["rewards/rejected"]) == pytest.approx(-0.1)
    assert float(figures.per_pair["reward_accuracy"]) == 1
    assert "pairs" not in figures.names


@pytest.mark.parametrize("kind", ["sigmoid", "simpo", "mdpo"])
def test_no_pairs_tell_the_names_of_all_figures(scores, kind):
    objective = PreferenceLoss(kind)
    coefficients = {name: item.value for name, item in objective.coefficients().items()}
    scores.policy.corrupted = scores.reference.corrupted = torch.zeros(2)
    some = pair_figures(scores, objective(scores, StepTotals(5, 2), coefficients))
    nothing = no_pairs(has_reference=True)
    none = pair_figures(nothing, objective(nothing, StepTotals(1, 1), coefficients))
    assert none.names == some.names
    without = no_pairs(has_reference=False)
    assert pair_figures(without, Loss(torch.tensor(0.0))).per_token == {}
