import math
from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores
from lit_vlm.objectives.preference_loss import (
    PER_TOKEN,
    PreferenceLoss,
    preference_losses,
)
from tests.objectives.pair_material import (
    card,
    doubles,
    gradients,
    make_scores,
    mdpo_card,
    random_scores,
    run,
    subset,
    variants,
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.657052),
        ({"label_smoothing": 0.1}, 0.664552),
        ({"kind": "robust", "label_smoothing": 0.1}, 0.647677),
        ({"kind": "hinge"}, 0.925),
        ({"kind": "ipo"}, 23.9632),
        ({"kind": "sigmoid_norm"}, 0.687856),
        ({"reference_free": True}, 0.671268),
        ({"kind": "simpo", "beta": 2.0, "gamma": 0.5}, 0.775008),
        ({"kind": "simpo", "beta": 2.0}, 0.775008),
    ],
)
def test_the_check_of_the_dpo_card_is_reproduced(settings, expected):
    assert run(PreferenceLoss(**settings), card()).share.item() == pytest.approx(expected, rel=1e-5)


def test_the_nll_term_is_added_with_its_weight():
    # The card's: sigmoid 0.657052 + 0.5 * 1.3 = 1.307052, where 16 chosen tokens have 1.3 nats each, 20.8 in all.
    scores = make_scores(((-8.8, -12), (-10.8, -11)), ((-9.8, -13), (-10.3, -12)), ((6, 10), (7, 8)))
    loss = run(PreferenceLoss(nll_weight=0.5), scores)
    assert loss.share.item() == pytest.approx(1.30705, rel=1e-5)
    assert loss.sums["nll"].item() / 2 == pytest.approx(1.3)


def test_the_sum_form_of_ipo_follows_the_paper():
    # The margins are 1.5 and 0; 1 / (2 * 0.1) = 5: (3.5^2 + 5^2) / 2 = 18.625.
    assert run(PreferenceLoss(kind="ipo_sum"), card()).share.item() == pytest.approx(18.625)


def test_the_check_of_the_mdpo_card_is_reproduced():
    loss = run(PreferenceLoss(kind="mdpo"), mdpo_card())
    assert loss.share.item() == pytest.approx(1.87255, rel=1e-5)
    terms = [loss.sums[name].item() for name in ("preference_loss", "image_loss", "anchor_loss")]
    assert terms == pytest.approx([0.620957, 0.607192, 0.644397], rel=1e-5)


def test_mdpo_is_a_preset_of_weights():
    spelt = PreferenceLoss(kind="sigmoid", image_weight=1.0, anchor_weight=1.0)
    assert run(spelt, mdpo_card()).share == run(PreferenceLoss(kind="mdpo"), mdpo_card()).share
    plain = PreferenceLoss(kind="mdpo", image_weight=0.0, anchor_weight=0.0)
    assert run(plain, mdpo_card()).share == run(PreferenceLoss(), mdpo_card()).share


def test_the_anchor_margin_asks_for_a_reward():
    # beta s_w - delta = 0.1 - 0.6 = -0.5: log(1 + e^0.5) = 0.974077.
    loss = run(PreferenceLoss(kind="mdpo", anchor_margin=0.6), mdpo_card())
    assert loss.sums["anchor_loss"].item() == pytest.approx(0.974077, rel=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("sigmoid_norm", 1.07826), ("sigmoid", 2.62096)])
def test_the_check_of_the_emma_card_is_reproduced(kind, expected):
    # Averages -0.8, -1.0, -1.0, -0.9 of five tokens each. Where the card takes sums, its NLL is a sum as well.
    scores = make_scores(((-4,), (-5,)), ((-5,), (-4.5,)), ((5,), (5,)))
    totals = StepTotals(labels=5, sequences=1) if kind == "sigmoid_norm" else StepTotals(labels=1, sequences=1)
    objective = PreferenceLoss(kind=kind, nll_weight=0.5)
    assert run(objective, scores, totals).share.item() == pytest.approx(expected, rel=1e-5)


def test_nll_reductions_differ_where_lengths_do():
    # 32 nats over 16 tokens; 12 / 6 and 20 / 10 are both 2. With 3 and 10 tokens: 32 / 13, and (4 + 2) / 2.
    scores = replace(card(), chosen_tokens=torch.tensor([3, 10]))
    means = [
        run(PreferenceLoss(nll_weight=1.0, nll_reduction=reduction), scores).sums["nll"].item() / 2
        for reduction in ("token_mean", "seq_mean")
    ]
    assert means == pytest.approx([32 / 13, 3.0])


def naive_pair(objective, s_w, s_l, n_w, n_l):
    """The DPO card's rows for one pair, by way of probabilities."""
    beta, smooth = objective.beta, objective.label_smoothing
    if objective.kind in PER_TOKEN:
        s_w, s_l = s_w / n_w, s_l / n_l
    if objective.kind in ("ipo", "ipo_sum"):
        return (s_w - s_l - 1 / (2 * beta)) ** 2
    if objective.kind == "hinge":
        return torch.clamp(1 - beta * (s_w - s_l), min=0)
    right = log_sigmoid(beta * (s_w - s_l) - 0.5 * (objective.kind == "simpo"))
    wrong = log_sigmoid(-beta * (s_w - s_l))
    if objective.kind == "robust":
        return (-(1 - smooth) * right + smooth * wrong) / (1 - 2 * smooth)
    return -(1 - smooth) * right - smooth * wrong


def log_sigmoid(value):
    return torch.log(1 / (1 + torch.exp(-value)))


def naive(objective, scores, totals):
    """The cards' formulas, pair by pair."""
    total, held, beta = 0.0, objective.kind != "simpo", objective.beta
    for row, weight in enumerate(scores.weights):
        n_w, n_l = scores.chosen_tokens[row], scores.rejected_tokens[row]
        s_w, s_l, s_m = (
            getattr(scores.policy, name)[row] - held * getattr(scores.reference, name)[row]
            for name in ("chosen", "rejected", "corrupted")
        )
        nll = -scores.policy.chosen[row]
        nll = nll / totals.labels if objective.nll_reduction == "token_mean" else nll / n_w / totals.sequences
        total = total + objective.nll_weight * weight * nll
        if scores.has_rejected[row]:
            loss = naive_pair(objective, s_w, s_l, n_w, n_l)
            if objective.kind == "mdpo":
                loss = loss - log_sigmoid(beta * s_w) - scores.has_corrupted[row] * log_sigmoid(beta * (s_w - s_m))
            total = total + weight * loss / totals.sequences
    return total


@pytest.mark.parametrize("objective", variants(), ids=str)
def test_loss_and_gradients_equal_those_of_the_formulas_written_out(objective):
    scores = random_scores(spread=0.5)
    totals = StepTotals(labels=90, sequences=11)
    leaves = [scores.policy.chosen, scores.policy.rejected, scores.policy.corrupted]
    expected = naive(objective, scores, totals)
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    assert run(objective, scores, totals).share.item() == pytest.approx(expected.item(), rel=1e-10)
    for mine, other, leaf in zip(gradients(objective, scores, totals), wanted, leaves, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(leaf) if other is None else other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", variants(), ids=str)
def test_gradients_equal_finite_differences(objective):
    scores = random_scores(spread=0.3)
    step = 1e-5
    for name, found in zip(("chosen", "rejected", "corrupted"), gradients(objective, scores), strict=True):
        for row in range(len(scores.weights)):
            sides = []
            for sign in (1, -1):
                moved = getattr(scores.policy, name).detach().clone()
                moved[row] += sign * step
                sides.append(run(objective, replace(scores, policy=replace(scores.policy, **{name: moved}))).share)
            slope = (sides[0] - sides[1]) / (2 * step)
            assert found[row].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("objective", variants(), ids=str)
def test_shares_of_micro_batches_add_up_to_the_loss_of_the_step(objective):
    scores, totals = random_scores(), StepTotals(labels=70, sequences=9)
    whole = run(objective, scores, totals)
    parts = [
        run(objective, subset(scores, rows), totals) for rows in (slice(0, 3), slice(3, 4), slice(4, 4), slice(4, 7))
    ]
    assert sum(part.share for part in parts).item() == pytest.approx(whole.share.item())
    for name, value in whole.sums.items():
        assert sum(part.sums[name] for part in parts).item() == pytest.approx(value.item()), name


@pytest.mark.parametrize("objective", variants(), ids=str)
def test_the_order_of_pairs_does_not_matter(objective):
    scores = random_scores()
    shuffled = subset(scores, torch.randperm(7, generator=torch.Generator().manual_seed(1)))
    assert run(objective, shuffled).share.item() == pytest.approx(run(objective, scores).share.item())


@pytest.mark.parametrize("objective", variants(), ids=str)
def test_terms_with_their_weights_make_up_the_loss(objective):
    scores, totals = random_scores(), StepTotals(labels=70, sequences=9)
    loss, values = run(objective, scores, totals), Coefficients.of(objective)
    weights = {"preference_loss": 1.0, "nll": values["nll_weight"]}
    weights |= {f"{name}_loss": values[f"{name}_weight"] for name in ("image", "anchor") if f"{name}_weight" in values}
    total = sum(weight * loss.sums[name].item() for name, weight in weights.items())
    assert total / totals.sequences == pytest.approx(loss.share.item())
    assert not any(value.requires_grad for value in loss.sums.values())


@pytest.mark.parametrize("objective", variants(), ids=str)
def test_no_pair_gives_zero_with_a_graph(objective):
    scores = subset(random_scores(), slice(0, 0))
    for totals in (StepTotals(labels=5, sequences=2), StepTotals(labels=0, sequences=0)):
        loss = run(objective, scores, totals)
        assert loss.share.item() == 0
        loss.share.backward()
        assert all(value.item() == 0 for value in loss.sums.values())


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm", "simpo"])
def test_without_smoothing_robust_and_smoothed_losses_are_the_plain_ones(kind):
    scores = random_scores()
    plain, tiny = PreferenceLoss(kind=kind), PreferenceLoss(kind=kind, label_smoothing=1e-12)
    assert run(tiny, scores).share.item() == pytest.approx(run(plain, scores).share.item())
    if kind == "sigmoid":
        assert run(PreferenceLoss(kind="robust"), scores).share.item() == pytest.approx(run(plain, scores).share.item())


def test_at_a_smoothing_of_half_both_directions_weigh_the_same():
    chosen, rejected, tokens = doubles(3.0, -1.0), doubles(-2.0, 5.0), torch.tensor([4, 2])
    there = preference_losses(chosen, rejected, tokens, tokens, label_smoothing=0.5)
    back = preference_losses(rejected, chosen, tokens, tokens, label_smoothing=0.5)
    torch.testing.assert_close(there, back)


def test_robust_is_unbiased_under_flipped_labels():
    # (1 - e) * robust(right) + e * robust(flipped) is the loss of clean labels.
    chosen, rejected, tokens = doubles(3.0, -1.0), doubles(-2.0, 5.0), torch.tensor([4, 2])
    settings = {"kind": "robust", "label_smoothing": 0.3}
    right = preference_losses(chosen, rejected, tokens, tokens, **settings)
    flipped = preference_losses(rejected, chosen, tokens, tokens, **settings)
    torch.testing.assert_close(0.7 * right + 0.3 * flipped, preference_losses(chosen, rejected, tokens, tokens))


@pytest.mark.parametrize("kind", ["sigmoid", "robust", "sigmoid_norm"])
def test_with_beta_towards_zero_a_logistic_loss_tends_to_the_log_of_two(kind):
    scores = replace(random_scores(), weights=torch.ones(7, dtype=torch.float64), has_rejected=torch.ones(7).bool())
    assert run(PreferenceLoss(kind=kind, beta=1e-6), scores).share.item() == pytest.approx(math.log(2), abs=1e-4)


def test_with_a_large_beta_ipo_tends_to_the_squared_margin():
    assert run(PreferenceLoss(kind="ipo_sum", beta=1e9), card()).share.item() == pytest.approx(1.5**2 / 2)


def test_kinds_per_token_do_not_depend_on_how_often_a_completion_is_repeated():
    once, tokens = doubles(-3.0, 1.0), torch.tensor([4, 2])
    for kind in PER_TOKEN:
        short = preference_losses(once, -once, tokens, tokens, kind=kind)
        torch.testing.assert_close(preference_losses(2 * once, -once, 2 * tokens, tokens, kind=kind), short)


@pytest.mark.parametrize("objective", variants(), ids=str)
@pytest.mark.parametrize("size", [1e4, 1e8])
def test_large_margins_keep_losses_and_gradients_finite(objective, size):
    leaves = [torch.tensor([-size, -1.0]).requires_grad_(), torch.tensor([-1.0, -size]).requires_grad_()]
    corrupted = torch.tensor([-1.0, -size]).requires_grad_()
    still = PairLogProbs(torch.zeros(2), torch.zeros(2), torch.zeros(2))
    ones, everyone = torch.ones(2), torch.ones(2).bool()
    scores = PairScores(PairLogProbs(*leaves, corrupted), still, ones.long(), ones.long(), ones, everyone, everyone)
    loss = run(objective, scores)
    loss.share.backward()
    assert loss.share.isfinite()
    assert loss.share.dtype == torch.float32
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
