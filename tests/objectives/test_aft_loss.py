import math

import pytest
import torch

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.comparisons import GroupScores
from lit_vlm.interfaces.errors import UserError
from lit_vlm.objectives.aft_loss import AFTLoss, alignment_losses, compared_pairs

CONSTRAINTS = ("detached", "boundary")
# The card's Check: two right completions and two wrong ones, and three in order.
GRADED = (-0.5, -0.8, -0.6, -1.5), (1.0, 1.0, 0.0, 0.0)
RANKED = (-0.4, -0.6, -1.0), (3.0, 2.0, 1.0)


def make_scores(means, scores, group_of=None, tokens=None, reference=(-1,)):
    """Groups of completions by their mean log-probabilities; the leaf with the gradient is ``log_probs``."""
    tokens = torch.tensor([4] * len(means) if tokens is None else tokens, dtype=torch.long)
    log_probs = torch.tensor(means, dtype=torch.float64) * tokens
    groups = torch.tensor([0] * len(means) if group_of is None else group_of, dtype=torch.long)
    grades = torch.tensor(scores, dtype=torch.float64)
    return GroupScores(log_probs.requires_grad_(), tokens, groups, grades, torch.tensor(reference, dtype=torch.long))


def several_groups():
    """Four groups: a mixed one, one of right completions only, one with a non-member, an empty one; shuffled."""
    means = (-0.5, -0.2, -0.6, -1.5, -0.9, -0.8, -0.3, -1.1, -0.7)
    scores = (1.0, 1.0, 0.0, 0.3, 0.8, 1.0, 0.2, math.nan, 0.9)
    group_of = (0, 1, 0, 0, 1, 0, 2, 2, 2)
    return make_scores(means, scores, group_of, (3, 5, 7, 2, 4, 6, 3, 8, 5), reference=(0, -1, 7, -1))


def subset(scores, groups):
    """Some groups of a batch, counted anew."""
    rows = torch.isin(scores.group_of, torch.tensor(groups, dtype=torch.long)).nonzero().squeeze(1)
    place = {group: number for number, group in enumerate(groups)}
    row_of = {int(row): number for number, row in enumerate(rows)}
    return GroupScores(
        scores.log_probs[rows],
        scores.tokens[rows],
        torch.tensor([place[int(group)] for group in scores.group_of[rows]], dtype=torch.long),
        scores.scores[rows],
        torch.tensor([row_of.get(int(scores.reference[group]), -1) for group in groups], dtype=torch.long),
    )


def run(objective, scores, totals=None, **coefficients):
    imitated = scores.reference[scores.reference >= 0]
    totals = totals or StepTotals(int(scores.tokens[imitated].sum()), len(scores.reference))
    return objective(scores, totals, {**Coefficients.of(objective), **coefficients})


def gradient(objective, scores, totals=None):
    """With regard to the mean log-probabilities."""
    (found,) = torch.autograd.grad(run(objective, scores, totals).share, scores.log_probs)
    return found * scores.tokens


def naive(objective, scores):
    """The card's formulas with loops: the sum of the questions' alignment losses."""
    means = [log_prob / tokens for log_prob, tokens in zip(scores.log_probs, scores.tokens, strict=True)]
    total = torch.zeros((), dtype=torch.float64)
    for group in range(len(scores.reference)):
        members = [row for row in range(len(means)) if scores.group_of[row] == group and not scores.scores[row].isnan()]
        inside = torch.ones((), dtype=torch.float64)
        for worse in members:
            better = [
                row
                for row in members
                if (
                    scores.scores[row] > scores.scores[worse]
                    if objective.ranked
                    else scores.scores[row] >= 0.5 > scores.scores[worse]
                )
            ]
            for row in better:
                if objective.constraint == "detached":
                    inside = inside + torch.exp(means[worse].detach() - means[row])
                else:
                    boundary = min(means[other].detach() for other in better) - 2 * objective.beta
                    inside = inside + torch.exp(means[worse] - means[row]) + torch.exp(boundary - means[worse])
        total = total + torch.log(inside)
    return total


def objectives():
    return [
        AFTLoss(constraint=constraint, ranked=ranked, beta=0.2)
        for constraint in CONSTRAINTS
        for ranked in (False, True)
    ]


@pytest.mark.parametrize(
    ("material", "constraint", "ranked", "expected"),
    [
        (GRADED, "detached", False, 1.38397),
        (GRADED, "boundary", False, 2.05259),
        (RANKED, "detached", True, 1.11115),
        (RANKED, "boundary", True, 1.76757),
    ],
)
def test_the_check_of_the_card_is_reproduced(material, constraint, ranked, expected):
    objective = AFTLoss(constraint=constraint, ranked=ranked, beta=0.2)
    assert run(objective, make_scores(*material)).share.item() == pytest.approx(expected, rel=1e-5)


def test_a_wrong_completion_below_the_boundary_is_pushed_up():
    found = gradient(AFTLoss(constraint="boundary", beta=0.2), make_scores(*GRADED))
    assert found[2:].tolist() == pytest.approx([0.132076, -0.23565], rel=1e-4)
    assert (found[:2] < 0).all()


def test_detached_wrong_completions_have_no_gradient():
    found = gradient(AFTLoss(constraint="detached"), make_scores(*GRADED))
    assert found[2:].tolist() == [0.0, 0.0]
    assert (found[:2] < 0).all()


def test_the_push_turns_round_beta_below_the_right_completion():
    # One right completion at -0.8 and a wrong one beta = 0.2 below: both exponents are -0.2.
    level = gradient(AFTLoss(constraint="boundary", beta=0.2), make_scores((-0.8, -1.0), (1.0, 0.0)))[1]
    assert level.item() == pytest.approx(0, abs=1e-12)
    above = gradient(AFTLoss(constraint="boundary", beta=0.2), make_scores((-0.8, -0.9), (1.0, 0.0)))[1]
    assert above > 0


@pytest.mark.parametrize("objective", objectives(), ids=str)
def test_loss_and_gradient_equal_those_of_the_formulas_written_out(objective):
    scores = several_groups()
    totals = StepTotals(labels=13, sequences=7)
    expected = naive(objective, scores) / 7 - scores.log_probs[[0, 7]].sum() / 13
    (wanted,) = torch.autograd.grad(expected, scores.log_probs)
    assert run(objective, scores, totals).share.item() == pytest.approx(expected.item())
    torch.testing.assert_close(gradient(objective, scores, totals), wanted * scores.tokens)


@pytest.mark.parametrize("ranked", [False, True])
def test_the_gradient_of_what_is_not_detached_equals_finite_differences(ranked):
    objective = AFTLoss(constraint="detached", ranked=ranked, sft_weight=0.0)
    scores, step = several_groups(), 1e-6
    means = (scores.log_probs / scores.tokens).detach()
    better, worse = compared_pairs(scores.group_of, scores.scores, ranked=ranked)
    found = gradient(objective, scores)
    for row in range(len(means)):
        # Moves a completion as the better one alone: as the worse one it is detached.
        sides = []
        for sign in (1, -1):
            exponents = means[worse] - means[better] - sign * step * (better == row)
            inside = torch.ones(4, dtype=torch.float64).index_add(0, scores.group_of[worse], exponents.exp())
            sides.append(inside.log().sum() / 4)
        assert found[row].item() == pytest.approx(((sides[0] - sides[1]) / (2 * step)).item(), abs=1e-7)


def test_the_gradient_of_wrong_completions_equals_finite_differences():
    # The boundary hangs on right completions alone, so wrong ones can be moved.
    objective, step = AFTLoss(constraint="boundary", beta=0.2), 1e-6
    means, grades = GRADED
    found = gradient(objective, make_scores(means, grades))
    for row in (2, 3):
        sides = []
        for sign in (1, -1):
            moved = [mean + sign * step * (place == row) for place, mean in enumerate(means)]
            sides.append(run(objective, make_scores(moved, grades)).share)
        assert found[row].item() == pytest.approx(((sides[0] - sides[1]) / (2 * step)).item(), rel=1e-6)


@pytest.mark.parametrize("objective", objectives(), ids=str)
def test_shares_of_micro_batches_add_up_to_the_loss_of_the_step(objective):
    scores, totals = several_groups(), StepTotals(labels=13, sequences=7)
    whole = run(objective, scores, totals)
    parts = [run(objective, subset(scores, groups), totals) for groups in ([2, 0], [3], [], [1])]
    assert sum(part.share for part in parts).item() == pytest.approx(whole.share.item())
    for name, value in whole.sums.items():
        assert sum(part.sums[name] for part in parts).item() == pytest.approx(value.item()), name


@pytest.mark.parametrize("objective", objectives(), ids=str)
def test_the_order_of_completions_does_not_matter(objective):
    scores = several_groups()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    places = order.argsort()
    shuffled = GroupScores(
        scores.log_probs[order], scores.tokens[order], scores.group_of[order], scores.scores[order],
        torch.tensor([places[row] if row >= 0 else -1 for row in scores.reference]),
    )  # fmt: skip
    assert run(objective, shuffled).share.item() == pytest.approx(run(objective, scores).share.item())


@pytest.mark.parametrize("objective", objectives(), ids=str)
@pytest.mark.parametrize("scores", [(1.0, 0.9, 0.7), (0.2, 0.2, 0.2), (0.5,), (math.nan, math.nan, 1.0), ()])
def test_a_group_with_nothing_to_compare_has_no_alignment_loss(objective, scores):
    if objective.ranked and len(set(scores)) == 3:
        scores = (0.7, 0.7, 0.7)
    material = make_scores((-0.5, -0.7, -0.2)[: len(scores)], scores)
    loss = run(objective, material, StepTotals(labels=0, sequences=1))
    assert loss.share.item() == 0
    loss.share.backward()
    assert loss.sums["compared_groups"].item() == 0
    assert not material.log_probs.grad.any()


def test_no_group_gives_zero_with_a_graph():
    material = make_scores((), (), reference=())
    loss = run(AFTLoss(), material, StepTotals(labels=0, sequences=0))
    assert loss.share.item() == 0
    loss.share.backward()


def test_equal_scores_are_not_compared():
    first, second = compared_pairs(torch.zeros(3, dtype=torch.long), torch.tensor([1.0, 2.0, 1.0]), ranked=True)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(1, 0), (1, 2)]


def test_a_score_of_half_is_right_and_a_missing_one_is_no_member():
    first, second = compared_pairs(torch.zeros(4, dtype=torch.long), torch.tensor([0.5, 0.49, math.nan, -1.0]))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (0, 3)]


def test_completions_of_other_groups_are_not_compared():
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0])
    first, second = compared_pairs(torch.tensor([0, 0, 1, 1]), scores)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (2, 3)]


def test_a_completion_without_tokens_is_no_member():
    full = make_scores((-0.5, -0.6), (1.0, 0.0))
    with_empty = make_scores((-0.5, -0.6, 0.0), (1.0, 0.0, 0.0), tokens=(4, 4, 0))
    assert run(AFTLoss(), with_empty).share.item() == pytest.approx(run(AFTLoss(), full).share.item())


def test_the_reference_is_imitated_by_its_tokens():
    # 4 * 0.5 + 8 * 0.25 = 4 nats over 12 tokens; the groups hold nothing to compare.
    scores = make_scores((-0.5, -0.25, -3.0), (math.nan, 1.0, 1.0), (0, 1, 1), (4, 8, 2), reference=(0, 1))
    loss = run(AFTLoss(), scores)
    assert loss.share.item() == pytest.approx(4 / 12)
    assert loss.sums["sft_loss"].item() / 2 == pytest.approx(4 / 12)
    assert run(AFTLoss(sft_weight=0.5), scores).share.item() == pytest.approx(2 / 12)
    assert run(AFTLoss(), scores, sft_weight=0.5).share.item() == pytest.approx(2 / 12)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_improbable_completions_keep_loss_and_gradient_finite(constraint):
    # exp(400) overflows in single precision; the loss is the largest exponent.
    means = torch.tensor([-400.0, -0.1]).requires_grad_()
    found = alignment_losses(
        means, torch.zeros(2, dtype=torch.long), 1, torch.tensor([0]), torch.tensor([1]), constraint=constraint
    )
    assert found.item() == pytest.approx(399.9)
    found.sum().backward()
    assert means.grad.isfinite().all()
    assert means.grad[0].item() == pytest.approx(-1)


def test_figures_tell_how_often_right_completions_are_likelier():
    # -0.5 beats -0.6 and -1.5; -0.8 beats -1.5 only: 3 of 4 pairs.
    sums = run(AFTLoss(), make_scores(*GRADED)).sums
    assert {name: sums[name].item() for name in ("assessed_pairs", "assessment_accuracy", "compared_groups")} == {
        "assessed_pairs": 4.0,
        "assessment_accuracy": 3.0,
        "compared_groups": 1.0,
    }
    tied = run(AFTLoss(), make_scores((-0.5, -0.5), (1.0, 0.0))).sums
    assert tied["assessment_accuracy"].item() == 0
    assert not any(value.requires_grad for value in sums.values())


def test_the_boundary_is_a_coefficient_where_there_is_one():
    assert set(AFTLoss(constraint="boundary").coefficients()) == {"sft_weight", "beta"}
    assert set(AFTLoss(constraint="detached").coefficients()) == {"sft_weight"}
    turned = run(AFTLoss(constraint="boundary", beta=0.9), make_scores(*GRADED), beta=0.2)
    assert turned.share.item() == pytest.approx(2.05259, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"constraint": "dc"}, "constraint is 'dc'; it must be one of detached, boundary"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"sft_weight": -1.0}, "sft_weight is -1.0"),
        ({"sft_weight": math.inf}, "sft_weight is inf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        AFTLoss(**settings)
