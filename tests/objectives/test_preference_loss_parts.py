"""What each setting of the preference loss does, what it tells the log, and what it refuses."""

import math
from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.comparisons import PairLogProbs
from lit_vlm.interfaces.errors import UserError
from lit_vlm.objectives.preference_loss import PreferenceLoss, anchor_losses, image_losses
from tests.objectives.pair_material import (
    KINDS,
    card,
    doubles,
    gradients,
    make_scores,
    mdpo_card,
    random_scores,
    run,
    subset,
)


def test_weights_multiply_the_terms_of_a_pair():
    both = [run(PreferenceLoss(nll_weight=0.5), subset(card(), slice(row, row + 1))) for row in (0, 1)]
    # Two steps of one sample, half a weight each: losses 0.6 and 0.4 would give 0.5.
    scores = card(weights=(0.5, 0.5))
    loss = run(PreferenceLoss(), scores, StepTotals(labels=16, sequences=1))
    expected = (both[0].sums["preference_loss"] + both[1].sums["preference_loss"]) / 2
    assert loss.share.item() == pytest.approx(expected.item())
    heavy = run(PreferenceLoss(nll_weight=0.5), card(weights=(3.0, 0.0)), StepTotals(labels=6, sequences=1))
    assert heavy.share.item() == pytest.approx(3 * both[0].share.item())


def test_a_row_without_a_rejected_completion_is_imitated_only():
    whole = mdpo_card()
    alone = mdpo_card(has_rejected=[False])
    loss = run(PreferenceLoss(kind="mdpo", nll_weight=0.5), alone)
    assert loss.share.item() == pytest.approx(0.5 * 12 / 6)
    assert loss.sums["pairs"].item() == 0
    assert loss.sums["reward_accuracy"].item() == 0
    assert run(PreferenceLoss(kind="mdpo"), alone).share.item() == 0
    assert run(PreferenceLoss(kind="mdpo", nll_weight=0.5), whole).share > loss.share


def test_a_pair_without_corrupted_images_keeps_the_other_terms():
    loss = run(PreferenceLoss(kind="mdpo"), mdpo_card(has_corrupted=[False]))
    assert loss.share.item() == pytest.approx(0.620957 + 0.644397, rel=1e-5)
    assert loss.sums["corrupted_pairs"].item() == 0
    assert run(PreferenceLoss(kind="mdpo"), mdpo_card()).sums["corrupted_pairs"].item() == 1


def test_what_stands_where_a_pair_has_nothing_reaches_no_gradient():
    scores = random_scores()
    policy = scores.policy
    spoilt = PairLogProbs(
        policy.chosen,
        policy.rejected.detach().where(scores.has_rejected, torch.nan).requires_grad_(),
        policy.corrupted.detach().where(scores.has_corrupted, torch.nan).requires_grad_(),
    )
    for mine, other in zip(
        gradients(PreferenceLoss(kind="mdpo"), replace(scores, policy=spoilt)),
        gradients(PreferenceLoss(kind="mdpo"), scores),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_figures_are_those_of_implicit_rewards():
    # Log-ratios are 1 and 1 of the chosen, -0.5 and 1 of the rejected: the second pair is a tie, which is not right.
    sums = run(PreferenceLoss(beta=0.2), card()).sums
    expected = {
        "chosen_reward": 0.4, "rejected_reward": 0.1, "reward_margin": 0.3, "reward_accuracy": 1.0,
        "chosen_log_prob": -32.0, "rejected_log_prob": -33.0, "pairs": 2.0,
    }  # fmt: skip
    assert {name: sums[name].item() for name in expected} == pytest.approx(expected)


def test_figures_do_not_depend_on_the_weights_of_pairs():
    plain, weighed = run(PreferenceLoss(), card()).sums, run(PreferenceLoss(), card(weights=(2.0, 0.3))).sums
    assert {name for name in plain if plain[name] != weighed[name]} == {"preference_loss", "nll"}


def test_rewards_of_simpo_are_per_token_and_without_reference():
    sums = run(PreferenceLoss(kind="simpo", beta=2.0), card()).sums
    assert sums["chosen_reward"].item() == pytest.approx(2 * (-12 / 6 - 20 / 10))
    # -2 against -2, a tie; -2 against -19 / 8.
    assert sums["reward_accuracy"].item() == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mdpo"])
def test_a_step_downhill_prefers_the_chosen_completion(kind):
    chosen, rejected, _ = (*gradients(PreferenceLoss(kind=kind), card()), None)
    assert (chosen < 0).all()
    assert (rejected > 0).all()


def test_only_the_anchor_keeps_the_chosen_completion_likely():
    """mDPO's idea: plain DPO is content where both halves fall, as long as the rejected one falls further."""
    fallen = make_scores(((-40,), (-60,)), ((-10,), (-10,)), ((6,), (6,)), corrupted=((-90,), (-10,)))
    plain = gradients(PreferenceLoss(), fallen)[0].item()
    anchored = gradients(PreferenceLoss(anchor_weight=1.0), fallen)[0].item()
    assert abs(anchored) > 5 * abs(plain)


def test_only_the_image_term_asks_that_the_image_matters():
    blind = make_scores(((-10,), (-60,)), ((-10,), (-10,)), ((6,), (6,)), corrupted=((-10,), (-10,)))
    assert gradients(PreferenceLoss(image_weight=1.0), blind)[2].item() == pytest.approx(0.05)
    assert gradients(PreferenceLoss(), blind)[2].item() == 0


def test_a_reference_free_loss_ignores_the_reference():
    free = PreferenceLoss(reference_free=True)
    assert not free.needs_reference
    assert run(free, card()).share == run(free, replace(card(), reference=None)).share


def test_needs_follow_from_the_settings():
    assert PreferenceLoss().needs_reference
    assert not PreferenceLoss(kind="simpo").needs_reference
    assert not PreferenceLoss().needs_corrupted
    assert PreferenceLoss(kind="mdpo").needs_corrupted
    assert not PreferenceLoss(kind="mdpo", image_weight=0.0).needs_corrupted
    assert PreferenceLoss(kind="hinge", image_weight=0.5).needs_corrupted


def test_coefficients_are_those_of_the_terms_there_are():
    assert set(PreferenceLoss().coefficients()) == {"beta", "nll_weight"}
    assert PreferenceLoss(kind="simpo").coefficients()["gamma"].value == 0.5
    assert set(PreferenceLoss(kind="mdpo").coefficients()) == {"beta", "nll_weight", "image_weight", "anchor_weight"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("beta", {"beta": 0.3}),
        ("nll_weight", {"nll_weight": 0.3}),
        ("image_weight", {"image_weight": 0.3}),
        ("anchor_weight", {"anchor_weight": 0.3}),
    ],
)
def test_a_turned_coefficient_acts_like_its_setting(name, settings):
    turned = run(PreferenceLoss(kind="mdpo"), mdpo_card(), **{name: 0.3})
    assert turned.share == run(PreferenceLoss(kind="mdpo", **settings), mdpo_card()).share
    gamma = run(PreferenceLoss(kind="simpo"), card(), gamma=0.9)
    assert gamma.share == run(PreferenceLoss(kind="simpo", gamma=0.9), card()).share


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "dpo"}, "kind is 'dpo'; it must be one of sigmoid, robust"),
        ({"nll_reduction": "sum"}, "nll_reduction is 'sum'"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"beta": math.inf}, "beta is inf"),
        ({"beta": math.nan}, "beta is nan"),
        ({"nll_weight": -1.0}, "nll_weight is -1.0"),
        ({"image_weight": math.nan}, "image_weight is nan"),
        ({"anchor_weight": -0.5}, "anchor_weight is -0.5"),
        ({"anchor_weight": 1.0, "anchor_margin": math.inf}, "anchor_margin is inf"),
        ({"anchor_margin": 0.5}, "there is no anchor"),
        ({"label_smoothing": -0.1}, r"must lie in \[0, 0.5\]"),
        ({"label_smoothing": 0.6}, r"must lie in \[0, 0.5\]"),
        ({"label_smoothing": math.nan}, r"must lie in \[0, 0.5\]"),
        ({"kind": "robust", "label_smoothing": 0.5}, "below 0.5"),
        ({"kind": "hinge", "label_smoothing": 0.1}, "kind hinge has no use for"),
        ({"kind": "ipo", "label_smoothing": 0.1}, "kind ipo has no use for"),
        ({"kind": "ipo_sum", "label_smoothing": 0.1}, "kind ipo_sum has no use for"),
        ({"gamma": 0.5}, "only kind simpo has a margin, not sigmoid"),
        ({"kind": "simpo", "gamma": -1.0}, "gamma is -1.0"),
        ({"kind": "sigmoid_norm", "image_weight": 1.0}, "image_weight is 1.0, but kind sigmoid_norm averages"),
        ({"kind": "simpo", "anchor_weight": 1.0}, "anchor_weight is 1.0, but kind simpo averages"),
        ({"kind": "mdpo", "reference_free": True}, "the anchor compares with the reference"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PreferenceLoss(**settings)


def test_a_missing_reference_is_refused():
    with pytest.raises(UserError, match="kind sigmoid compares with a reference, but there is none"):
        run(PreferenceLoss(), replace(card(), reference=None))


def test_missing_corrupted_images_are_refused():
    with pytest.raises(ValueError, match="behind corrupted images"):
        run(PreferenceLoss(kind="mdpo"), card())
    scores = mdpo_card()
    with pytest.raises(ValueError, match="behind corrupted images"):
        run(PreferenceLoss(kind="mdpo"), replace(scores, reference=replace(scores.reference, corrupted=None)))


def test_the_terms_can_be_had_on_their_own():
    assert image_losses(doubles(1.0), doubles(-0.8), beta=0.1).item() == pytest.approx(0.607192, rel=1e-5)
    assert anchor_losses(doubles(1.0), beta=0.1).item() == pytest.approx(0.644397, rel=1e-5)
