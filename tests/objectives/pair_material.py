"""Pairs of log-probabilities for tests of preference objectives."""

from dataclasses import fields, replace

import torch

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores
from lit_vlm.objectives.preference_loss import PreferenceLoss

KINDS = ("sigmoid", "robust", "hinge", "ipo", "ipo_sum", "sigmoid_norm", "simpo", "mdpo")


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def make_scores(policy, reference, tokens, corrupted=None, weights=None, has_rejected=None, has_corrupted=None):
    """Scores of pairs: (chosen, rejected) of the policy and of the reference, their tokens, (policy, reference) of the
    chosen ones behind corrupted images."""
    pairs = len(policy[0])
    leaves = [doubles(*half).requires_grad_() for half in (*policy, *(corrupted or ())[:1])]
    known = None if reference is None else PairLogProbs(*(doubles(*half) for half in reference))
    if corrupted is not None and known is not None:
        known = replace(known, corrupted=doubles(*corrupted[1]))
    everyone = torch.ones(pairs, dtype=torch.bool)
    return PairScores(
        PairLogProbs(*leaves), known, torch.tensor(tokens[0]), torch.tensor(tokens[1]),
        doubles(*([1.0] * pairs if weights is None else weights)),
        everyone if has_rejected is None else torch.tensor(has_rejected),
        everyone & (corrupted is not None) if has_corrupted is None else torch.tensor(has_corrupted),
    )  # fmt: skip


def card(**options):
    """The pairs of the DPO card's Check."""
    return make_scores(((-12, -20), (-14, -19)), ((-13, -21), (-13.5, -20)), ((6, 10), (7, 8)), **options)


def mdpo_card(**options):
    """The pair of the mDPO card's Check."""
    return make_scores(((-12,), (-14,)), ((-13,), (-13.5,)), ((6,), (7,)), corrupted=((-15,), (-14.2,)), **options)


def random_scores(pairs=7, seed=0, spread=3.0):
    """Pairs of uneven lengths and weights, some without a rejected completion, some without a corrupted image."""
    generator = torch.Generator().manual_seed(seed)
    numbers = -torch.rand(6, pairs, generator=generator, dtype=torch.float64) * 20 * spread
    lengths = torch.randint(1, 12, (2, pairs), generator=generator)
    has_rejected = torch.arange(pairs) % 5 != 3
    has_corrupted = torch.arange(pairs) % 3 != 1
    numbers[1::3] *= has_rejected
    numbers[2::3] *= has_corrupted
    leaves = [row.clone().requires_grad_() for row in numbers[:3]]
    weights = 0.5 + torch.rand(pairs, generator=generator, dtype=torch.float64)
    return PairScores(
        PairLogProbs(*leaves), PairLogProbs(*numbers[3:]), lengths[0], lengths[1] * has_rejected, weights,
        has_rejected, has_corrupted,
    )  # fmt: skip


def subset(scores, rows):
    def cut(part):
        return None if part is None else PairLogProbs(
            part.chosen[rows], part.rejected[rows], None if part.corrupted is None else part.corrupted[rows]
        )  # fmt: skip

    rest = {item.name: getattr(scores, item.name)[rows] for item in fields(scores)[2:]}
    return PairScores(cut(scores.policy), cut(scores.reference), **rest)


def count(scores):
    return StepTotals(labels=int(scores.chosen_tokens.sum()), sequences=len(scores.weights))


def run(objective, scores, totals=None, **coefficients):
    values = Coefficients.of(objective)
    return objective(scores, totals or count(scores), {**values, **coefficients})


def gradients(objective, scores, totals=None, **coefficients):
    leaves = [
        part for part in (scores.policy.chosen, scores.policy.rejected, scores.policy.corrupted) if part is not None
    ]
    share = run(objective, scores, totals, **coefficients).share
    found = torch.autograd.grad(share, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]


def variants():
    smoothed = [PreferenceLoss(kind=kind, label_smoothing=0.2) for kind in ("sigmoid", "robust", "mdpo")]
    imitating = [PreferenceLoss(nll_weight=0.7), PreferenceLoss(kind="ipo", nll_weight=0.3, nll_reduction="seq_mean")]
    return [*(PreferenceLoss(kind=kind) for kind in KINDS), *smoothed, *imitating]
